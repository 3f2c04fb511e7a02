"""Are two students different, or was it luck? Two sets of answers to the same questions.

Both answered the same questions, so only those that one got right and the other wrong say anything:
exact McNemar's test on them, and a bootstrap interval of the difference over questions.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy import stats

from stages.distil.evaluation.statistics import wilson_interval
from stages.distil.interface.errors import UserError, report_errors
from stages.distil.storage import tables

WORKSPACE = "workspace"
RESAMPLES = 9_999
CHANGED = Path("results/changed.csv")
SHOWN = 5  # questions printed of those that changed sides

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Difference:
    """How two sets of answers differ: `a`, `b` right answers, `only_a`, `only_b` right alone.

    `share` is accuracy of a minus accuracy of b, `low` to `high` its 95 % interval.
    """

    questions: int
    a: int
    b: int
    only_a: int
    only_b: int
    share: float
    low: float
    high: float
    p_value: float


def difference(a: Sequence[bool], b: Sequence[bool]) -> Difference:
    """Compare two sets of answers to the same questions, in the same order.

    The p-value is that of McNemar's test in its exact form: under no difference, who alone is right
    is a fair coin (McNemar, Psychometrika 1947). The interval is a percentile bootstrap over
    questions, with a fixed seed.
    """
    ours, theirs = np.asarray(a, bool), np.asarray(b, bool)
    only_a, only_b = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    gains = ours.astype(float) - theirs
    low = high = float(gains.mean())
    if np.ptp(gains):  # else every sample of the questions is like this one
        interval = stats.bootstrap(
            (gains,),
            np.mean,
            n_resamples=RESAMPLES,
            batch=100,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    changed = only_a + only_b
    return Difference(
        questions=len(ours),
        a=int(ours.sum()),
        b=int(theirs.sum()),
        only_a=only_a,
        only_b=only_b,
        share=float(gains.mean()),
        low=low,
        high=high,
        p_value=float(stats.binomtest(only_a, changed).pvalue) if changed else 1.0,
    )


def read_predictions(name: str) -> Rows:
    """Read the predictions of a folder, of the workspace, or of an experiment or revision.

    Raises `UserError` where there is no such place, or no predictions in it.
    """
    if name == WORKSPACE:
        return tables.read_table(tables.PREDICTIONS)
    if Path(name).is_dir():
        return tables.read_table(Path(name) / tables.PREDICTIONS)
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException

    try:
        files = DVCFileSystem(rev=name)
        with files.open(str(tables.PREDICTIONS)) as file:
            return pq.read_table(file).to_pylist()
    except FileNotFoundError:
        raise UserError(
            f"{name}: its {tables.PREDICTIONS} is not in DVC's cache; `dvc pull`, or run it again"
        ) from None
    except (DvcException, ValueError) as error:
        raise UserError(
            f"{name}: no folder, experiment or revision of that name ({error}); `dvc exp show` "
            "lists the experiments"
        ) from None


def changed_questions(a: Rows, b: Rows) -> Rows:
    """Return the questions that only one side answered, with both answers.

    Raises `UserError` where the sides did not answer the same questions in the same order.
    """
    changed = []
    for number, (ours, theirs) in enumerate(zip(a, b, strict=False), start=1):
        if any(ours[key] != theirs[key] for key in ("id", "question", "options", "answer")):
            raise UserError(
                f"row {number}: A answered question {ours['id']!r}, B {theirs['id']!r}, or their "
                "texts differ; compare runs on the same test questions"
            )
        if ours["correct"] != theirs["correct"]:
            changed.append(
                {
                    "id": ours["id"],
                    "right": "A" if ours["correct"] else "B",
                    "question": ours["question"],
                    "answer": ours["answer"],
                    "A": ours["prediction"],
                    "B": theirs["prediction"],
                }
            )
    if len(a) != len(b):
        raise UserError(
            f"A answered {len(a)} questions, B {len(b)}; compare runs on the same test questions"
        )
    return changed


def compare(name_a: str, name_b: str) -> None:
    """Print how two runs differ and write the questions that changed sides."""
    a, b = read_predictions(name_a), read_predictions(name_b)
    changed = changed_questions(a, b)
    found = difference([row["correct"] for row in a], [row["correct"] for row in b])
    width = max(len(name_a), len(name_b)) + 2
    print(f"{'':{width}} accuracy  95 % interval   right alone")
    for letter, name, right, alone in (
        ("A", name_a, found.a, found.only_a),
        ("B", name_b, found.b, found.only_b),
    ):
        low, high = wilson_interval(right, found.questions)
        share = right / found.questions
        print(f"{letter} {name:{width - 2}} {share:8.3f}  {low:.3f} to {high:.3f} {alone:11}")
    print(
        f"A − B {found.share:+.3f}, 95 % interval {found.low:+.3f} to {found.high:+.3f} (bootstrap "
        f"over {found.questions} questions); exact McNemar p = {found.p_value:.2g}"
    )
    CHANGED.parent.mkdir(parents=True, exist_ok=True)
    with CHANGED.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "right", "question", "answer", "A", "B"])
        writer.writeheader()
        writer.writerows(changed)
    print(f"\n{len(changed)} questions changed sides, all in {CHANGED}")
    for row in changed[:SHOWN]:
        print(f"\n{row['id']}, {row['right']} is right: {row['question']}")
        print(f"  answer {row['answer']}; A: {row['A']}; B: {row['B']}")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.distil.experiments.compare", description=__doc__
    )
    where = f"a folder with results/, an experiment, a revision, or {WORKSPACE}"
    parser.add_argument("a", metavar="A", help=where)
    parser.add_argument("b", metavar="B", help=where)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args()
    sys.exit(report_errors("compare", arguments.debug, lambda: compare(arguments.a, arguments.b)))


if __name__ == "__main__":
    main()
