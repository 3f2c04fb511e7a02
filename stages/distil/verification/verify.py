"""Compare a run with the committed one: what CI holds a pull request against.

Models and questions must be the same bytes. What a floating-point kernel has touched may differ
between machines, so accuracies are compared within a tolerance. A student that learnt from other
texts or words than the committed one is another draw, whose accuracy may lie far from it: it must
only be better than each teacher.
"""

import argparse
import csv
import io
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.distil.interface.errors import UserError, report_errors
from stages.distil.storage.tables import METRICS

LOCK = Path("dvc.lock")
EXACT = ("fetch", "prepare")  # stages whose outputs are the same bytes everywhere
STUDENT_TOLERANCE = 0.1  # of a student that learnt from the same bytes
LOSS_TOLERANCE = 0.1  # relative; another order of questions moves single steps by more
QUESTIONS = 300  # of an accuracy that does not say how many
MARGIN = 0.05  # that a change may cost the student's committed accuracy
STUDENT = "student.accuracy"
TEACHERS = "teachers."


def verify() -> None:
    """Compare dvc.lock and metrics.json of the working tree with those of the last commit."""
    locks = _both(LOCK)
    differences = compare_locks(*locks)
    differences += compare_metrics(*_both(METRICS), same_data=has_same_data(*locks))
    if differences:
        raise UserError(f"this run is not the committed one: {'; '.join(differences)}")
    print("verified: same models and questions, accuracies within the tolerance")


def check_gain(since: str) -> None:
    """Refuse a commit whose student is worse than that of revision `since` beyond MARGIN."""
    scores = (_scores(json.loads(committed_text(METRICS, at))) for at in (since, "HEAD"))
    before, after = (found[STUDENT]["accuracy"] for found in scores)
    if after < before - MARGIN:
        raise UserError(
            f"{STUDENT} is {after:.3f} in {METRICS}, {before:.3f} at {since}: a "
            f"change may cost {MARGIN} at most"
        )
    print(f"{STUDENT}: {after:.3f}, at {since} {before:.3f}")


def compare_locks(committed: str, found: str) -> list[str]:
    """Return what differs between two dvc.lock files: stages, and outputs that must be equal."""
    before, after = (YAML(typ="safe").load(text)["stages"] for text in (committed, found))
    differences = [f"stage {s} has not run" for s in sorted(before.keys() - after.keys())]
    differences += [f"stage {s} is not committed" for s in sorted(after.keys() - before.keys())]
    for name in sorted(before.keys() & after.keys()):
        if before[name].get("params") != after[name].get("params"):
            differences.append(f"stage {name} has other parameters")
        if name.split("@")[0] in EXACT:
            sums = [{out["path"]: out["md5"] for out in s[name]["outs"]} for s in (before, after)]
            differences += [
                f"{path} is not the committed one"
                for path in sorted(sums[0].keys() | sums[1].keys())
                if sums[0].get(path) != sums[1].get(path)
            ]
    return differences


def tolerance(questions: int) -> float:
    """Return what a teacher's accuracy may differ by: two standard errors of a fair coin."""
    return round(math.sqrt(1 / questions), 3)


def compare_losses(committed: str, found: str) -> list[str]:
    """Return what differs between two curves of DVCLive (TSV): steps, and distant losses."""
    curves = [
        list(csv.DictReader(io.StringIO(text), delimiter="\t")) for text in (committed, found)
    ]
    before, after = ({row["step"]: float(row["total"]) for row in curve} for curve in curves)
    if list(before) != list(after):
        return ["the losses are of other steps"]
    return [
        f"the loss at step {step} is {after[step]}, committed {loss} ± {LOSS_TOLERANCE:.0%}"
        for step, loss in before.items()
        if not math.isclose(loss, after[step], rel_tol=LOSS_TOLERANCE)
    ]


def has_same_data(committed: str, found: str) -> bool:
    """Return whether two dvc.lock files have students that learnt from the same bytes."""
    sums = []
    for text in (committed, found):
        outputs = YAML(typ="safe").load(text)["stages"].get("assemble", {}).get("outs", [])
        sums.append({out["path"]: out["md5"] for out in outputs})
    return sums[0] == sums[1]


def compare_metrics(committed: str, found: str, same_data: bool) -> list[str]:
    """Return the accuracies beyond the tolerance, and those that only one side has."""
    scores = [_scores(json.loads(text)) for text in (committed, found)]
    before, after = ({name: s["accuracy"] for name, s in side.items()} for side in scores)
    differences = []
    for name in sorted(before.keys() | after.keys()):
        of_teacher = name.startswith(TEACHERS)
        allowed = STUDENT_TOLERANCE
        if of_teacher and name in before:
            allowed = tolerance(scores[0][name].get("questions", QUESTIONS))
        if name not in before or name not in after:
            differences.append(f"{name} is in one of the metrics only")
        elif name == STUDENT and not same_data:
            differences += [
                f"{name} is {after[name]:.3f}, not above {teacher} of {value:.3f}"
                for teacher, value in after.items()
                if teacher.startswith(TEACHERS) and teacher.count(".") == 2 and value >= after[name]
            ]
        elif (of_teacher or same_data) and abs(before[name] - after[name]) > allowed:
            differences.append(
                f"{name} is {after[name]:.3f}, committed {before[name]:.3f} ± {allowed}"
            )
    return differences


def _scores(metrics: dict[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    """Return every score by the dotted name of its accuracy."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in metrics.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, dict):
            found |= _scores(value, name)
        elif key == "accuracy":
            found[name] = metrics
    return found


def _both(path: Path) -> tuple[str, str]:
    return committed_text(path, "HEAD"), path.read_text(encoding="utf-8")


def committed_text(path: Path, revision: str) -> str:
    """Return a file as it is committed at a revision; raise `UserError` where it is not."""
    run = subprocess.run(["git", "show", f"{revision}:{path}"], capture_output=True, text=True)
    if run.returncode:
        raise UserError(
            f"{path}: not committed at {revision}; commit it after a run that is to be the measure"
        )
    return run.stdout


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.distil.verification.verify", description=__doc__
    )
    parser.add_argument(
        "--since", help="compare the committed metrics with this revision's instead"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    chosen = parser.parse_args()
    action = (lambda: check_gain(chosen.since)) if chosen.since else verify
    sys.exit(report_errors("verify", chosen.debug, action))


if __name__ == "__main__":
    main()
