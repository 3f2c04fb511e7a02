"""Does distillation help? Methods × training seeds, as DVC experiments on the data in use.

Run from the project's folder: .venv/bin/python -m benchmarks.seeds [--seeds 3]
Finished experiments are not run again. Prints a table of test accuracies and leaves params.yaml as
it was. The last line is one JSON object.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import dvc.api

DVC = str(Path(sys.executable).parent / "dvc")
METHODS = {
    "fine-tuning": ["alpha=0", "saliency.weight=0"],
    "default": [],
    "oracle": ["teachers=[oracle]"],
}
PARAMS = Path("params.yaml")


def accuracies(seeds: int) -> dict[str, list[float]]:
    """Run what has not run yet and return each method's accuracies, one a seed."""
    found: dict[str, list[float]] = {method: [] for method in METHODS}
    if subprocess.run(["git", "diff", "--quiet", "HEAD", "--", str(PARAMS)]).returncode:
        sys.exit(f"{PARAMS}: not the committed one; commit it, or `git checkout HEAD {PARAMS}`")
    before = PARAMS.read_text()
    try:
        for seed in range(seeds):
            for method, changes in METHODS.items():
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="training seeds (%(default)s)")
    table = accuracies(parser.parse_args().seeds)
    print("\n| method | each seed | mean |\n|---|---|---|")
    for method, values in table.items():
        each = ", ".join(f"{value:.3f}" for value in values)
        print(f"| {method} | {each} | {statistics.mean(values):.3f} |")
    print(json.dumps({method: statistics.mean(values) for method, values in table.items()}))


if __name__ == "__main__":
    main()
