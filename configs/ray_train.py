"""Train on a running Ray cluster, a worker on each of eight GPUs.

All nodes need the same project folder at the same path, with its packages and those of Ray:
    stages/python configs/ray_train.py && .venv/bin/dvc commit --force train && .venv/bin/dvc repro
"""

import os
import sys

from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

WORKERS = 8
USE_GPU = True


def work(settings: dict[str, str]) -> None:
    """Run the stage in the project's folder; Ray has set RANK and the other variables."""
    os.chdir(settings["project"])
    sys.path.insert(0, settings["project"])
    from stages.distil.interface.parameters import load_parameters
    from stages.train import train

    train(load_parameters("params.yaml"))


if __name__ == "__main__":
    project = os.getcwd()
    TorchTrainer(
        work,
        train_loop_config={"project": project},
        scaling_config=ScalingConfig(num_workers=WORKERS, use_gpu=USE_GPU),
        run_config=RunConfig(storage_path=f"{project}/.cache/ray"),
    ).fit()
