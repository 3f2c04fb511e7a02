"""Write the test questions as the texts that the student was trained on, for lm-eval.

Run by `make harness`; it prints the tasks, one for each way in which the student answers.
"""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages.distil.interface.errors import report_errors
from stages.distil.interface.method import ANSWER, REASONING
from stages.distil.interface.parameters import load_parameters
from stages.distil.language.student_prompts import (
    ANSWER_TASK,
    REASONING_TASK,
    question_text,
    text_before,
)
from stages.distil.storage import tables
from stages.distil.weights.architecture import load_config
from stages.distil.weights.folders import STUDENT

PROMPTS = Path(".cache/harness")


def main() -> None:
    student = load_parameters("params.yaml").student
    ways = {"direct": (ANSWER, ANSWER_TASK)} if student.direct else {}
    if student.reasons:
        ways["reasoned"] = (REASONING, REASONING_TASK)
    PROMPTS.mkdir(parents=True, exist_ok=True)
    for name, (task, asked) in ways.items():
        # The decoder of an encoder-decoder that is asked by a prefix writes nothing but the answer.
        if student.prompt.prefixes and load_config(STUDENT).is_encoder_decoder:
            asked = ""
        before = text_before(task, student.prompt)
        rows = [
            {
                "prompt": before
                + question_text(row["question"], row["options"], student.prompt)
                + asked,
                "answer": row["answer"],
            }
            for row in tables.scan_table(tables.distill_table("test"))
        ]
        pq.write_table(pa.Table.from_pylist(rows), PROMPTS / f"{name}.parquet")
    print(",".join(f"student_{name}" for name in ways))


if __name__ == "__main__":
    sys.exit(report_errors("prompts", debug=False, action=main))
