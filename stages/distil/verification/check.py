"""Run the pipeline at a small size and compare it with its committed results: `make check`.

The run is a DVC experiment in a folder of its own: params.yaml, dvc.lock and results of the
workspace stay as they are.
"""

import argparse
import io
import sys
from pathlib import Path

from pydantic import Field
from ruamel.yaml import YAML

from stages.distil.experiments.commands import dvc
from stages.distil.interface.errors import UserError, report_errors
from stages.distil.interface.parameters import Parameters
from stages.distil.interface.settings import Settings, check_settings, load_settings
from stages.distil.storage.tables import METRICS
from stages.distil.verification.verify import (
    LOCK,
    committed_text,
    compare_locks,
    compare_losses,
    compare_metrics,
    has_same_data,
)

PROFILE = Path("configs/check.yaml")
KEPT = Path("results/check")  # what a run is compared with
LOSSES = Path("results/train/plots/metrics/loss/total.tsv")
COMPARED = (LOCK, METRICS, LOSSES)
EXPERIMENT = "check"
TARGET = "evaluate"
NOT_RUN = ("card", "report")


class Profile(Settings):
    """A file of parameters that differ from params.yaml."""

    changes: list[str] = Field(min_length=1, description="as after `-S`")


def run_profile() -> None:
    """Run the profile as an experiment; one of that name is replaced."""
    if EXPERIMENT in dvc("exp", "list", "--name-only").split():
        dvc("exp", "remove", EXPERIMENT)
    changes = load_settings(PROFILE, Profile).changes
    sets = [part for change in changes for part in ("--set-param", change)]
    dvc("exp", "run", "--temp", "--name", EXPERIMENT, *sets, TARGET, show=True)


def results() -> dict[Path, str]:
    """Return the text of each file that is compared, as the experiment left it."""
    from dvc.api import DVCFileSystem

    files = DVCFileSystem(rev=EXPERIMENT)
    texts = {path: files.read_text(str(path)) for path in COMPARED}
    values = YAML(typ="safe", pure=True).load(files.read_text("params.yaml"))
    texts[LOCK] = own_stages(texts[LOCK], check_settings(values, Parameters, PROFILE))
    return texts


def own_stages(lock: str, parameters: Parameters) -> str:
    """Return dvc.lock without the stages that the profile does not run: they are of other runs."""
    used = {*parameters.teachers, parameters.saliency.teacher, parameters.student.model}
    items = {"fetch": used, "rationales": set(parameters.teachers)}
    yaml = YAML()
    entries = yaml.load(lock)
    for name in list(entries["stages"]):
        stage, _, item = name.partition("@")
        if stage in NOT_RUN or (item and item not in items[stage]):
            del entries["stages"][name]
    text = io.StringIO()
    yaml.dump(entries, text)
    return text.getvalue()


def kept_file(path: Path) -> Path:
    """Return where a file that is compared is kept."""
    return KEPT / ("losses.tsv" if path == LOSSES else path.name)


def check(keep: bool) -> None:
    """Run the profile; write what it gives into KEPT, or compare it with what is there."""
    run_profile()
    found = results()
    if keep:
        KEPT.mkdir(parents=True, exist_ok=True)
        for path, text in found.items():
            kept_file(path).write_text(text, encoding="utf-8")
        print(f"{KEPT}: written; commit it")
        return
    before = {path: committed_text(kept_file(path), "HEAD") for path in COMPARED}
    locks = before[LOCK], found[LOCK]
    same_data = has_same_data(*locks)
    differences = compare_locks(*locks)
    # So small a student is in the middle of its steepest learning: its accuracy may move with the
    # rounding of another processor, its losses hardly.
    differences += compare_metrics(before[METRICS], found[METRICS], same_data=False)
    if same_data:
        differences += compare_losses(before[LOSSES], found[LOSSES])
    if differences:
        raise UserError(f"this run is not that of {KEPT}: {'; '.join(differences)}")
    learnt = "the same bytes" if same_data else "other texts or words (another kind of processor)"
    print(f"checked: {PROFILE} gives the results in {KEPT}; the student learnt from {learnt}")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.distil.verification.check", description=__doc__
    )
    parser.add_argument("--keep", action="store_true", help=f"write {KEPT} instead of comparing")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    chosen = parser.parse_args()
    sys.exit(report_errors("check", chosen.debug, lambda: check(chosen.keep)))


if __name__ == "__main__":
    main()
