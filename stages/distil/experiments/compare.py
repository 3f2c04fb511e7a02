"""Test whether two runs differ, from their answers to the same questions.

McNemar's exact test uses the questions that only one of them answers correctly. The interval of the
difference is a bootstrap over questions.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from scipy import stats

from stages.distil.evaluation.statistics import wilson_interval
from stages.distil.interface.command import command_line
from stages.distil.interface.errors import UserError, report_errors
from stages.distil.interface.escaping import for_terminal
from stages.distil.storage import tables
from stages.distil.storage.csv_files import TableRows, csv_text

WORKSPACE = "workspace"
RESAMPLES = 9_999
CHANGED = Path("results/changed.csv")
SHOWN = 5  # changed questions that are printed


@dataclass(frozen=True)
class Difference:
    """The difference of two sets of answers.

    `a` and `b` count the correct answers of each side, `only_a` and `only_b` those that the other
    side got wrong. `gain` is the accuracy of a minus that of b, `low` to `high` its 95 % interval.
    """

    questions: int
    a: int
    b: int
    only_a: int
    only_b: int
    gain: float
    low: float
    high: float
    p_value: float


def difference(a: Sequence[bool], b: Sequence[bool]) -> Difference:
    """Compare two sets of answers to the same questions, in the same order.

    The p-value is that of McNemar's exact test: without a difference, each side is equally likely
    to be the only correct one (McNemar, Psychometrika 1947). The interval is a percentile bootstrap
    over questions, with a fixed seed.
    """
    ours, theirs = np.asarray(a, bool), np.asarray(b, bool)
    only_a, only_b = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    gains = ours.astype(float) - theirs
    low = high = float(gains.mean())
    if np.ptp(gains):  # otherwise every resample is the same
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
        gain=float(gains.mean()),
        low=low,
        high=high,
        p_value=float(stats.binomtest(only_a, changed).pvalue) if changed else 1.0,
    )


def read_predictions(name: str) -> TableRows:
    """Read the predictions of a folder, the workspace, an experiment or a revision.

    Raises `UserError` if there is nothing of that name, or it has no predictions.
    """
    if name == WORKSPACE:
        return tables.read_table(tables.PREDICTIONS)
    if Path(name).is_dir():
        return tables.read_table(Path(name) / tables.PREDICTIONS)
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException

    try:
        # Copied: Arrow's threads outlive a read from a Python file, and may then abort the process
        # as it ends (apache/arrow issue 33975).
        with TemporaryDirectory() as folder:
            copy = Path(folder) / tables.PREDICTIONS.name
            DVCFileSystem(rev=name).get_file(str(tables.PREDICTIONS), str(copy))
            try:
                return list(tables.scan_table(copy, tables.SCHEMAS[tables.PREDICTIONS]))
            except UserError as error:
                found = str(error).replace(str(copy), str(tables.PREDICTIONS)).partition(";")[0]
                raise UserError(f"{name}: {found}; repeat the run") from None
    except FileNotFoundError:
        raise UserError(
            f"{name}: {tables.PREDICTIONS} is not in DVC's cache; run `dvc pull`, or repeat the run"
        ) from None
    except (DvcException, ValueError) as error:
        raise UserError(
            f"{name}: no such folder, experiment or revision ({error}); `dvc exp show` lists the "
            "experiments"
        ) from None


def read_training(revision: str) -> dict[str, str]:
    """Return the epoch that a run kept and the steps that it took, as a table's metadata."""
    from dvc.api import DVCFileSystem

    file = tables.TRAINING / "metrics.json"
    summary = json.loads(DVCFileSystem(rev=revision).read_text(str(file)))
    return {"epoch": str(summary["best_epoch"]), "steps": str(summary["step"])}


def changed_questions(a: TableRows, b: TableRows) -> TableRows:
    """Return the questions that only one side answered correctly, with both answers.

    Raises `UserError` unless both sides answered the same questions in the same order.
    """
    changed = []
    for number, (ours, theirs) in enumerate(zip(a, b, strict=False), start=1):
        if any(ours[key] != theirs[key] for key in ("id", "question", "options", "answer")):
            raise UserError(
                f"row {number}: A has question {ours['id']!r}, B {theirs['id']!r}, or their texts "
                "differ; compare runs on the same test questions"
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
            f"A has {len(a)} questions, B {len(b)}; compare runs on the same test questions"
        )
    return changed


def compare(name_a: str, name_b: str) -> None:
    """Print how two runs differ; write the questions that only one of them answers correctly."""
    a, b = read_predictions(name_a), read_predictions(name_b)
    changed = changed_questions(a, b)
    result = difference([row["correct"] for row in a], [row["correct"] for row in b])
    width = max(len(name_a), len(name_b)) + 2
    print(f"{'':{width}} accuracy  95 % interval   only correct here")
    for letter, name, correct, alone in (
        ("A", name_a, result.a, result.only_a),
        ("B", name_b, result.b, result.only_b),
    ):
        low, high = wilson_interval(correct, result.questions)
        share = correct / result.questions
        print(f"{letter} {name:{width - 2}} {share:8.3f}  {low:.3f} to {high:.3f} {alone:17}")
    print(
        f"A − B {result.gain:+.3f}, 95 % interval {result.low:+.3f} to {result.high:+.3f} "
        f"(bootstrap over {result.questions} questions); exact McNemar p = {result.p_value:.2g}"
    )
    columns = ["id", "right", "question", "answer", "A", "B"]
    tables.write_text(CHANGED, csv_text(columns, changed))
    print(f"\n{len(changed)} questions with one correct side, all in {CHANGED}")
    for row in changed[:SHOWN]:
        shown = {name: for_terminal(str(value)) for name, value in row.items()}
        print(f"\n{shown['id']}, {shown['right']} is correct: {shown['question']}")
        print(f"  answer {shown['answer']}; A: {shown['A']}; B: {shown['B']}")


def main() -> None:
    """Run from the command line."""
    parser = command_line("python -m stages.distil.experiments.compare", __doc__)
    sources = f"a folder with results/, an experiment, a revision, or {WORKSPACE}"
    parser.add_argument("a", metavar="A", help=sources)
    parser.add_argument("b", metavar="B", help=sources)
    arguments = parser.parse_args()
    sys.exit(report_errors("compare", arguments.debug, lambda: compare(arguments.a, arguments.b)))


if __name__ == "__main__":
    main()
