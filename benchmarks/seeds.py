"""Does distillation help? Methods × training seeds, as DVC experiments on the data in use.

Run from the project's folder: .venv/bin/python -m benchmarks.seeds [--seeds 3] [--methods ...]
Finished experiments are not run again. Prints a table of test accuracies, each method's mean with
its 95 % interval over training seeds (Student's t; the test questions are the same for all), and
leaves params.yaml as it was. The last line is one JSON object.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

import dvc.api
from scipy import stats

DVC = str(Path(sys.executable).parent / "dvc")
METHODS = {
    "fine-tuning": ["alpha=0", "saliency.weight=0"],
    "step-by-step": ["teachers=[qwen-coder-1b5]", "saliency.weight=0"],
    "tinyllm": ["assemble.min_share=0", "saliency.weight=0"],  # both teachers, whatever they write
    "saliency": ["alpha=0"],
    "default": [],
    "oracle": ["teachers=[oracle]", "saliency.weight=0"],
}
PARAMS = Path("params.yaml")


def accuracies(methods: list[str], seeds: int) -> dict[str, list[float]]:
    """Run what has not run yet and return each method's accuracies, one a seed."""
    found: dict[str, list[float]] = {method: [] for method in methods}
    if subprocess.run(["git", "diff", "--quiet", "HEAD", "--", str(PARAMS)]).returncode:
        sys.exit(f"{PARAMS}: not the committed one; commit it, or `git checkout HEAD {PARAMS}`")
    before = PARAMS.read_text()
    try:
        for seed in range(seeds):
            for method in methods:
                changes = METHODS[method]
                name = f"{method}-{seed}"
                done = {row["Experiment"]: row for row in dvc.api.exp_show()}
                if name not in done:
                    PARAMS.write_text(before)
                    # Seed 0 is that of params.yaml: its default run may be there already.
                    changed = [*changes, *([f"train.seed={seed}"] if seed else [])]
                    sets = [part for change in changed for part in ("-S", change)]
                    subprocess.run([DVC, "exp", "run", "--name", name, *sets], check=True)
                    done = {row["Experiment"]: row for row in dvc.api.exp_show()}
                accuracy = float(done[name]["student.accuracy"])
                print(f"{name}: {accuracy:.3f}", flush=True)
                found[method].append(accuracy)
    finally:
        PARAMS.write_text(before)
    return found


def margin(values: list[float]) -> float:
    """Return half of the mean's 95 % interval."""
    if len(values) < 2:
        return math.nan
    spread = statistics.stdev(values) / math.sqrt(len(values))
    return float(stats.t.ppf(0.975, len(values) - 1) * spread)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="training seeds (%(default)s)")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=list(METHODS), help="(all of them)"
    )
    arguments = parser.parse_args()
    table = accuracies(arguments.methods, arguments.seeds)
    print("\n| method | each seed | mean | 95 % interval |\n|---|---|---|---|")
    for method, values in table.items():
        each = ", ".join(f"{value:.3f}" for value in values)
        mean, half = statistics.mean(values), margin(values)
        print(f"| {method} | {each} | {mean:.3f} | {mean - half:.3f} to {mean + half:.3f} |")
    print(json.dumps({method: statistics.mean(values) for method, values in table.items()}))


if __name__ == "__main__":
    main()
