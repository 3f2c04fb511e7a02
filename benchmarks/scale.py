"""Peak memory of the stage `rationales` over many rows, with an engine that only echoes.

The stage builds prompts, stores every text and writes its table as usual. Run from the project's
folder:
    .venv/bin/python -m benchmarks.scale [--rows 100000]
The last line is a JSON object.
"""

import argparse
import json
import os
import random
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from ruamel.yaml import YAML

from stages import rationales as stage
from stages.distil.interface.parameters import Parameters
from stages.distil.storage import tables
from stages.distil.teachers.backend import Completion, Request

PROJECT = Path(__file__).parent.parent
WORDS = "the a family of three lives in old town and its eldest sister teaches music there".split()


class Echo:
    """An engine that answers at once with about 30 words of the question."""

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Yield each request with its echo."""
        for request in requests:
            question = request.conversation.user
            yield request, Completion(f"{question[:150]} So it is yes.", "stop", 400, 40)


def examples(rows: int) -> Iterator[dict]:
    for number in range(rows + 232):
        split = "train" if number < rows else "test" if number < rows + 200 else "pool"
        text = " ".join(random.Random(number).choices(WORDS, k=60))
        yield {
            "id": f"{split}-{number:08d}",
            "split": split,
            "question": f"{text}, number {number}?",
            "options": ["yes", "no", "perhaps"],
            "answer": "yes",
            "rationales": [{"teacher": "someone", "text": "So it is yes."}],
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000, help="questions (%(default)s)")
    rows = parser.parse_args().rows
    values = YAML(typ="safe").load(PROJECT / "params.yaml")
    prompts = values["rationales"]["prompts"]
    values["rationales"]["prompts"] = {name: PROJECT / path for name, path in prompts.items()}
    values["models"]["far"] = {"source": "server", "url": "http://nowhere", "model": "echo"}
    settings = Parameters.model_validate(values)
    stage.open_backend = lambda *_: Echo()  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        tables.write_table(tables.EXAMPLES, examples(rows))
        start = time.perf_counter()
        stage.rationales(settings, "far")
        seconds = time.perf_counter() - start
        os.chdir(PROJECT)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {
                "peak_memory_mb": round(memory),
                "rows": rows,
                "rows_per_second": round(rows / seconds),
            }
        )
    )


if __name__ == "__main__":
    main()
