"""The stages with a tiny random model, on this machine's device and on its CPU, and the difference.

Everything is computed in float32, where a GPU and a CPU differ by rounding alone.
    python -m benchmarks.gpu.pipeline FOLDER
runs the stages in an empty folder, on the GPU unless CUDA_VISIBLE_DEVICES hides it.
"""

import argparse
import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.rationales import committed_values, write_parameters

TEACHER = "tiny"
SIZES = {"train": 24, "validation": 8, "test": 16, "pool": 8}
LOSSES = "results/train/plots/metrics/loss/total.tsv"


def parameter_values(model: Path) -> dict[str, Any]:
    """Return the parameters of the run."""
    values = committed_values()
    values["models"][TEACHER] = {"source": "folder", "path": str(model)}
    values["teachers"] = [TEACHER]
    values["alpha"] = 0.5
    values["data"]["name"] = "kinship"
    values["datasets"]["kinship"] |= {"sizes": SIZES}
    values["rationales"] |= {"backend": "transformers", "dtype": "float32", "max_tokens": 24}
    values["saliency"] |= {"teacher": TEACHER, "of": "question", "dtype": "float32"}
    values["saliency"]["finetune"]["epochs"] = 1
    # A random model's texts say nothing, but all of them are to be learnt here.
    values["assemble"] |= {"choose": "ratio", "scorer": TEACHER}
    values["assemble"]["statuses"] = [
        "ok",
        "truncated",
        "repetitive",
        "contradicts",
        "inconclusive",
    ]
    values["student"] |= {"model": TEACHER, "dtype": "float32", "form": "branch"}
    values["train"] |= {"epochs": 2, "batch_tokens": 512}
    values["evaluate"] |= {"teacher_questions": SIZES["test"], "explained": 4}
    return values


def run_stages(folder: Path) -> None:
    """Run every stage that computes, one after the other, in this process."""
    from benchmarks.gpu.shapes import make_model
    from stages.assemble import assemble
    from stages.distil.interface.parameters import load_parameters
    from stages.encode import encode
    from stages.evaluate import evaluate
    from stages.finetune import finetune
    from stages.prepare import prepare
    from stages.rationales import rationales
    from stages.saliency import saliency
    from stages.train import train
    from stages.usefulness import usefulness

    os.chdir(folder)
    model = make_model("tiny", Path("models", TEACHER)).resolve()
    write_parameters(parameter_values(model))
    parameters = load_parameters("params.yaml")
    prepare(parameters)
    rationales(parameters, TEACHER)
    usefulness(parameters, TEACHER)
    for stage in (finetune, saliency, assemble, encode, train, evaluate):
        stage(parameters)


def results(folder: Path) -> dict[str, Any]:
    """Return what is compared of a finished run: texts, chosen words, answers, losses."""
    from stages.distil.storage import tables

    texts = tables.read_table(folder / tables.rationale_table(TEACHER))
    taught = tables.read_table(folder / tables.distill_table("train"))
    answers = tables.read_table(folder / tables.PREDICTIONS)
    with (folder / LOSSES).open(encoding="utf-8") as file:
        losses = [float(row["total"]) for row in csv.DictReader(file, delimiter="\t")]
    return {
        "texts": [row["rationale"] or row["answer"] for row in texts],
        "words": [row["saliency"] for row in taught],
        "answers": [row["prediction"] for row in answers],
        "losses": losses,
    }


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Return the shares of equal texts, words and answers, and the largest difference of a loss."""

    def same(name: str) -> float:
        pairs = list(zip(ours[name], theirs[name], strict=True))
        return round(sum(a == b for a, b in pairs) / len(pairs), 3)

    losses = zip(ours["losses"], theirs["losses"], strict=True)
    return {
        **{f"same_{name}": same(name) for name in ("texts", "words", "answers")},
        "loss_difference": float(f"{max(abs(a - b) / b for a, b in losses):.2g}"),
    }


def compare_devices(work: Path) -> dict[str, Any]:
    """Run the stages on the GPU, if there is one, and on the CPU; return how the results differ."""
    found = []
    for device, hidden in (("device", None), ("cpu", "")):
        folder = work / f"pipeline-{device}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        environment = dict(os.environ)
        if hidden is not None:
            environment["CUDA_VISIBLE_DEVICES"] = hidden
        if found:  # the same random weights
            shutil.copytree(
                work / f"pipeline-device/models/{TEACHER}", folder / f"models/{TEACHER}"
            )
        command = [sys.executable, "-m", "benchmarks.gpu.pipeline", str(folder)]
        subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
        found.append(results(folder))
    return differences(*found) | {"loss": found[0]["losses"][-1]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    run_stages(parser.parse_args().folder)
