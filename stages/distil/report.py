"""The short table that `make repro` ends with."""

import json
import sys

from stages.distil.command import TIMES
from stages.distil.errors import UserError, report_errors
from stages.distil.models import STUDENT, count_parameters, model_folder
from stages.distil.parameters import load_parameters
from stages.distil.tables import METRICS


def print_report() -> None:
    """Print accuracies with intervals, sizes, and the time each stage took when it last ran."""
    try:
        metrics = json.loads(METRICS.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{METRICS}: no such file; `make repro` makes it") from None
    parameters = load_parameters("params.yaml")
    print(f"\n{'model':28} {'accuracy':>8}  {'95 % interval':15} {'parameters':>12}")
    rows = [("student", STUDENT, metrics["student"])]
    for name, entry in metrics["teachers"].items():
        rows.append((f"{name}, zero-shot", model_folder(name), entry))
    for name, folder, entry in rows:
        if "accuracy" in entry:
            interval = f"{entry['low']:.3f} to {entry['high']:.3f}"
            size = f"{count_parameters(folder) / 1e6:,.0f} M"
            print(f"{name:28} {entry['accuracy']:8.3f}  {interval:15} {size:>12}")
    print(f"{metrics['student']['questions']} test questions of {parameters.data.name}\n")
    for name, entry in metrics["teachers"].items():
        counts = ", ".join(f"{n} {status}" for status, n in entry["rationales"].items() if n)
        print(f"rationales of {name}: {counts}")
        if "train" in entry:
            train = entry["train"]
            print(f"  its own answers to train questions: {train['accuracy']:.3f} right")
    salient = metrics["saliency"]
    print(
        f"salient words: {salient['overlap']:.3f} of the questions have a word of the answer among "
        f"them ({salient['chance']:.3f} by chance)"
    )
    times = {
        file.stem: json.loads(file.read_text())["seconds"] for file in sorted(TIMES.glob("*.json"))
    }
    if times:
        print("\nseconds: " + ", ".join(f"{name} {value:.0f}" for name, value in times.items()))


if __name__ == "__main__":
    sys.exit(report_errors("report", "--debug" in sys.argv, print_report))
