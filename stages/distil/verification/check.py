"""Run the pipeline at a small size and compare the results with committed ones: `make check`.

The run is a DVC experiment in its own folder; it changes no file of the workspace.
"""

import io
import sys
from pathlib import Path

from ruamel.yaml import YAML

from stages.distil.experiments.queue import TARGET, dvc, set_params
from stages.distil.experiments.recipe import Recipe
from stages.distil.interface.command import command_line
from stages.distil.interface.errors import UserError, report_errors
from stages.distil.interface.parameters import Parameters
from stages.distil.interface.paths import LOCK, PARAMETERS
from stages.distil.interface.settings import check_settings, load_settings
from stages.distil.storage.tables import METRICS, TRAINING
from stages.distil.verification.verify import (
    committed_text,
    compare_locks,
    compare_losses,
    compare_metrics,
    has_same_data,
)

PROFILE = Path("configs/check.yaml")
REFERENCE = Path("results/check")  # the results that a run is compared with
LOSSES = TRAINING / "plots/metrics/loss/total.tsv"
COMPARED = (LOCK, METRICS, LOSSES)
EXPERIMENT = "check"
NOT_RUN = ("card", "report")


def run_profile() -> None:
    """Run the profile as an experiment, replacing the previous one."""
    if EXPERIMENT in dvc("exp", "list", "--name-only").split():
        dvc("exp", "remove", EXPERIMENT)
    changes = load_settings(PROFILE, Recipe).changes
    dvc("exp", "run", "--temp", "--name", EXPERIMENT, *set_params(changes), TARGET, show=True)


def read_results() -> dict[Path, str]:
    """Return the text of each compared file of the experiment."""
    from dvc.api import DVCFileSystem

    files = DVCFileSystem(rev=EXPERIMENT)
    texts = {path: files.read_text(str(path)) for path in COMPARED}
    values = YAML(typ="safe", pure=True).load(files.read_text(str(PARAMETERS)))
    texts[LOCK] = profile_stages(texts[LOCK], check_settings(values, Parameters, PROFILE))
    return texts


def profile_stages(lock: str, parameters: Parameters) -> str:
    """Return dvc.lock with only the stages that the profile runs."""
    teachers = set(parameters.teachers)
    items = {"fetch": parameters.used_models, "rationales": teachers, "usefulness": teachers}
    yaml = YAML()
    entries = yaml.load(lock)
    for name in list(entries["stages"]):
        stage, _, item = name.partition("@")
        if stage in NOT_RUN or (item and item not in items[stage]):
            del entries["stages"][name]
    text = io.StringIO()
    yaml.dump(entries, text)
    return text.getvalue()


def reference_file(path: Path) -> Path:
    """Return the committed counterpart of a compared file."""
    return REFERENCE / ("losses.tsv" if path == LOSSES else path.name)


def check(keep: bool) -> None:
    """Run the profile; compare its results with REFERENCE or, with `keep`, replace them there."""
    run_profile()
    results = read_results()
    if keep:
        REFERENCE.mkdir(parents=True, exist_ok=True)
        for path, text in results.items():
            reference_file(path).write_text(text, encoding="utf-8")
        print(f"{REFERENCE}: written; commit it")
        return
    committed = {path: committed_text(reference_file(path), "HEAD") for path in COMPARED}
    locks = committed[LOCK], results[LOCK]
    same_data = has_same_data(*locks)
    differences = compare_locks(*locks)
    # After such a short training, the rounding of another processor can change the accuracy, but
    # hardly the losses.
    differences += compare_metrics(committed[METRICS], results[METRICS], same_data=False)
    if same_data:
        differences += compare_losses(committed[LOSSES], results[LOSSES])
    if differences:
        raise UserError(
            f"this run differs from {REFERENCE}: {'; '.join(differences)}; if that is intended, "
            "run `make check KEEP=yes` and commit"
        )
    data = "the same bytes" if same_data else "other texts or words (another kind of processor)"
    print(f"checked: {PROFILE} gives the results in {REFERENCE}; the student learnt from {data}")


def main() -> None:
    """Run from the command line."""
    parser = command_line("python -m stages.distil.verification.check", __doc__)
    parser.add_argument("--keep", action="store_true", help=f"replace {REFERENCE}, do not compare")
    chosen = parser.parse_args()
    sys.exit(report_errors("check", chosen.debug, lambda: check(chosen.keep)))


if __name__ == "__main__":
    main()
