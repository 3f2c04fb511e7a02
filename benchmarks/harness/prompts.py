"""Write the test questions as the texts that the student was trained on, for lm-eval.

Run by `make harness`.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages.distil.interface.parameters import load_parameters
from stages.distil.language.student_prompts import ANSWER_TASK, student_context
from stages.distil.storage import tables
from stages.distil.weights.architecture import load_config
from stages.distil.weights.folders import STUDENT

PROMPTS = Path(".cache/harness/test.parquet")


def main() -> None:
    prompt = load_parameters("params.yaml").student.prompt
    # The decoder of an encoder-decoder that is asked by a prefix writes nothing but the answer.
    task = "" if prompt.prefixes and load_config(STUDENT).is_encoder_decoder else ANSWER_TASK
    rows = [
        {
            "prompt": student_context(row["question"], row["options"], prompt) + task,
            "answer": row["answer"],
        }
        for row in tables.scan_table(tables.distill_table("test"))
    ]
    PROMPTS.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), PROMPTS)


if __name__ == "__main__":
    main()
