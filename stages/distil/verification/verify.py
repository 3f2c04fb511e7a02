"""Compare a run with the committed one; CI runs this on pull requests.

Models and questions must be the same bytes. Floating-point results differ between machines, so
accuracies are compared within a tolerance. If the student learnt from other texts or words than the
committed one, its accuracy may be quite different: it must only be better than each teacher's.
"""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ruamel.yaml import YAML, YAMLError

from stages.distil.interface.command import command_line
from stages.distil.interface.errors import UserError, report_errors
from stages.distil.interface.paths import LOCK
from stages.distil.storage.result_files import explain_damage, number, read_points
from stages.distil.storage.tables import METRICS, PREDICTIONS, check_exists

EXACT = ("fetch", "prepare")  # stages whose outputs are the same bytes on every machine
STUDENT_TOLERANCE = 0.1  # of the accuracy of a student that learnt from the same bytes
LOSS_TOLERANCE = 0.1  # relative; another order of questions changes single steps by more
QUESTIONS = 300  # assumed for an accuracy without a number of questions
MARGIN = 0.05  # of the student's committed accuracy that a change may cost
STUDENT = "student.accuracy"
TEACHERS = "teachers."
T = TypeVar("T")


def verify() -> None:
    """Compare dvc.lock and metrics.json of the working tree with those of the last commit."""
    check_exists(PREDICTIONS)  # without a run, both are still the committed ones
    locks = _committed_and_current(LOCK)
    differences = compare_locks(*locks)
    metrics = _committed_and_current(METRICS)
    differences += compare_metrics(*metrics, same_data=has_same_data(*locks))
    if differences:
        raise UserError(f"this run differs from the committed one: {'; '.join(differences)}")
    print("verified: same models and questions, accuracies within the tolerance")


def check_gain(since: str) -> None:
    """Raise `UserError` if the committed accuracy is lower than at `since` by more than MARGIN."""
    before, after = (
        _read(f"{METRICS} at {at}", committed_text(METRICS, at), _student_accuracy)
        for at in (since, "HEAD")
    )
    if after < before - MARGIN:
        raise UserError(
            f"{STUDENT} is {after:.3f} in {METRICS}, {before:.3f} at {since}: it may drop by "
            f"{MARGIN} at most"
        )
    print(f"{STUDENT}: {after:.3f}, {before:.3f} at {since}")


def compare_locks(committed: str, current: str) -> list[str]:
    """Return the differences of two dvc.lock files: stages, parameters and EXACT outputs."""
    before, after = _both(LOCK, (committed, current), _stages)
    differences = [f"stage {s} has not run" for s in sorted(before.keys() - after.keys())]
    differences += [f"stage {s} is not committed" for s in sorted(after.keys() - before.keys())]
    for name in sorted(before.keys() & after.keys()):
        if before[name].get("params") != after[name].get("params"):
            differences.append(f"stage {name} has different parameters")
        if name.split("@")[0] in EXACT:
            sums = [_sums(stages[name]) for stages in (before, after)]
            differences += [
                f"{path} differs from the committed one"
                for path in sorted(sums[0].keys() | sums[1].keys())
                if sums[0].get(path) != sums[1].get(path)
            ]
    return differences


def tolerance(questions: int) -> float:
    """Return the tolerance of a teacher's accuracy: two standard errors at an accuracy of 0.5."""
    return round(math.sqrt(1 / questions), 3)


def compare_losses(committed: str, current: str) -> list[str]:
    """Return the differences of two curves of DVCLive (TSV): steps, losses beyond the tolerance."""
    before, after = map(dict, _both("the curve of losses", (committed, current), read_points))
    if list(before) != list(after):
        return ["the losses are of different steps"]
    return [
        f"the loss at step {step} is {after[step]}, committed {loss} ± {LOSS_TOLERANCE:.0%}"
        for step, loss in before.items()
        if not math.isclose(loss, after[step], rel_tol=LOSS_TOLERANCE)
    ]


def has_same_data(committed: str, current: str) -> bool:
    """Return whether the students of two dvc.lock files learnt from the same bytes."""
    before, after = _both(LOCK, (committed, current), _stages)
    return _sums(before.get("encode", {})) == _sums(after.get("encode", {}))


def compare_metrics(committed: str, current: str, same_data: bool) -> list[str]:
    """Return the accuracies that differ beyond the tolerance or exist on one side only."""
    scores = _both(METRICS, (committed, current), _read_scores)
    before, after = ({name: s["accuracy"] for name, s in side.items()} for side in scores)
    differences = []
    for name in sorted(before.keys() | after.keys()):
        of_teacher = name.startswith(TEACHERS)
        allowed = STUDENT_TOLERANCE
        if of_teacher and name in before:
            allowed = tolerance(scores[0][name].get("questions", QUESTIONS))
        if name not in before or name not in after:
            side = "committed" if name in before else "current"
            differences.append(f"{name} is in the {side} metrics only")
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


def _read(name: str, text: str, parse: Callable[[str], T]) -> T:
    """Parse a file; raise `UserError` that names it if it is damaged."""
    with explain_damage(name, "restore it with git, or run `dvc repro`"):
        return parse(text)


def _both(name: Path | str, texts: tuple[str, str], parse: Callable[[str], T]) -> tuple[T, T]:
    """Parse a file as committed and as it is now."""
    committed, current = texts
    return _read(f"{name} (committed)", committed, parse), _read(str(name), current, parse)


def _stages(lock: str) -> dict[str, Any]:
    """Return the stages of dvc.lock by name; raise an error if an output has no path or sum."""
    try:
        stages = YAML(typ="safe").load(lock)["stages"]
    except YAMLError as error:
        raise ValueError(str(error)) from error
    for stage in stages.values():
        _sums(stage)
    return stages


def _sums(stage: dict[str, Any]) -> dict[str, str]:
    return {out["path"]: out["md5"] for out in stage.get("outs", [])}


def _read_scores(text: str) -> dict[str, dict[str, Any]]:
    scores = _scores(json.loads(text))
    for entry in scores.values():
        number(entry, "accuracy")
        if "questions" in entry and number(entry, "questions") < 1:
            raise ValueError("no question")
    return scores


def _student_accuracy(text: str) -> float:
    return _read_scores(text)[STUDENT]["accuracy"]


def _scores(metrics: dict[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    """Return every dictionary with an accuracy, by the dotted name of that accuracy."""
    scores: dict[str, dict[str, Any]] = {}
    for key, value in metrics.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, dict):
            scores |= _scores(value, name)
        elif key == "accuracy":
            scores[name] = metrics
    return scores


def _committed_and_current(path: Path) -> tuple[str, str]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; `dvc repro` makes it")
    return committed_text(path, "HEAD"), path.read_text(encoding="utf-8", errors="replace")


def committed_text(path: Path, revision: str) -> str:
    """Return a file as committed at a revision; raise `UserError` if it is not committed."""
    command = ["git", "show", f"{revision}:{path}"]
    run = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if run.returncode:
        for cause in ("dubious ownership", "not a git repository"):
            if cause in run.stderr:
                raise UserError(
                    f'git: {cause}; see docs/installation.md, "Without a repository" (git\'s '
                    "safe.directory)"
                )
        raise UserError(
            f"{path}: not committed at {revision}; commit it after a run to compare with"
        )
    return run.stdout


def main() -> None:
    """Run from the command line."""
    parser = command_line("python -m stages.distil.verification.verify", __doc__)
    parser.add_argument(
        "--since", help="compare the committed metrics with those of this revision instead"
    )
    chosen = parser.parse_args()
    action = (lambda: check_gain(chosen.since)) if chosen.since else verify
    sys.exit(report_errors("verify", chosen.debug, action))


if __name__ == "__main__":
    main()
