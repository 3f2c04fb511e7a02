"""Every method of the README's table, run as written, with tiny students of both architectures.

A fake server is the large teacher, whose rationales are right; the small teacher is the tiny model
itself. Stages run in this process; two methods also run under DVC.
"""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from safetensors.torch import load_file

from stages.assemble import assemble
from stages.distil.interface.parameters import Parameters, load_parameters
from stages.distil.weights.fetching import fetch_model
from stages.encode import encode
from stages.evaluate import evaluate
from stages.finetune import finetune
from stages.prepare import prepare
from stages.rationales import rationales
from stages.saliency import saliency
from stages.train import train
from tests.conftest import ROOT, question, write_jsonl
from tests.openai_server import Teacher, serve
from tests.test_pipeline import PARAMETERS, dvc, make_project, reproduced

README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLE = README.split("| method | parameters |\n|---|---|\n")[1].split("\n\n")[0]
METHODS = {
    row.split(" | ")[0].removeprefix("| "): re.findall("`(.*)`", row) for row in TABLE.splitlines()
}
LARGE, SMALL = "qwen-coder-1b5", "smollm2-135m"


@pytest.fixture(scope="module", params=["tiny_model", "tiny_t5"])
def project(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    shutil.copytree(request.getfixturevalue(request.param), folder / "tiny")

    def with_oracle(number: int, split: str) -> dict:
        row = question(number, split)
        return row | {"rationales": {"oracle": row["rationales"]["one"]}}

    counts = {"train": 8, "validation": 3, "test": 4}
    rows = {split: [with_oracle(n, split) for n in range(count)] for split, count in counts.items()}
    write_jsonl(folder / "balls", **rows)
    with serve(Teacher()) as url:
        changes = {
            "teachers": [LARGE, SMALL],
            "rationales": PARAMETERS["rationales"]
            | {"backend": "transformers", "dtype": "float32", "teacher_forcing": True},
            "saliency": PARAMETERS["saliency"] | {"teacher": SMALL},
            "assemble": PARAMETERS["assemble"] | {"scorer": SMALL, "labels": "gold"},
            "student": PARAMETERS["student"]
            | {"model": SMALL, "form": "before_answer", "direct": False, "lora_rank": 0},
            "models": {
                LARGE: {"source": "server", "url": url, "model": "large"},
                SMALL: {"source": "folder", "path": "tiny"},
                "oracle": {"source": "provided"},
            },
            "datasets": {"balls": {"source": "files", "folder": "balls"}},
        }
        make_project(folder, PARAMETERS | changes)
        yield folder


def test_the_table_is_found():
    assert len(METHODS) == 14


def changes(method: str) -> list[str]:
    """Return the `-S` arguments of a method."""
    words = shlex.split(METHODS[method][0]) if METHODS[method] else []
    return [value for flag, value in zip(words, words[1:], strict=False) if flag == "-S"]


def run_stages(parameters: Parameters) -> None:
    """Run the stages up to the evaluation in the current folder."""
    for name, source in parameters.models.items():
        if not Path("models", name).exists():
            fetch_model(name, source)
    shutil.rmtree("data/rationales", ignore_errors=True)
    prepare(parameters)
    for teacher in parameters.teachers:
        rationales(parameters, teacher)
    for stage in (finetune, saliency, assemble, encode, train, evaluate):
        stage(parameters)


def check_results(project: Path, method: str) -> None:
    """Check that losses, metrics and changed weights are those of the method.

    The small teacher writes nothing sound, so it is left out.
    """
    text = " ".join(changes(method))
    losses = {file.stem for file in (project / "results/train").rglob("loss/*.tsv")}
    expected = {"total"} if "epochs=0" not in text else set()
    if expected and ("form=branch" in text or "direct=true" in text):
        expected |= {"answer"}
    if expected and "alpha=0" not in text and "teachers=[]" not in text:
        expected |= {"oracle"} if "oracle" in text else {LARGE}
    if expected and "saliency.weight=0" not in text:
        expected |= {"saliency"}
    assert losses == expected
    metrics = json.loads((project / "results/metrics.json").read_text())
    assert metrics["student"]["questions"] == 4
    before = load_file(project / "models" / SMALL / "model.safetensors")
    after = load_file(project / "models/student/model.safetensors")
    changed = {n for n in before if not before[n].bfloat16().equal(after[n])}
    assert bool(changed) == ("epochs=0" not in text)
    if "lora" in text:
        assert all("embed" not in name and "norm" not in name for name in changed)


@pytest.mark.parametrize("method", METHODS)
def test_the_method_trains_its_losses_and_weights(project, method, monkeypatch):
    monkeypatch.chdir(project)
    shutil.copy("params.yaml", "changed.yaml")
    apply_overrides("changed.yaml", changes(method))
    run_stages(load_parameters("changed.yaml"))
    check_results(project, method)


@pytest.mark.slow
@pytest.mark.parametrize("project", ["tiny_model"], indirect=True)
@pytest.mark.parametrize("method", [next(iter(METHODS)), "LoRA"])
def test_the_method_runs_under_dvc_as_written(project, method):
    overrides = [part for change in changes(method) for part in ("-S", change)]
    ran = reproduced(dvc(project, "exp", "run", *overrides))
    assert {"train", "evaluate"} <= set(ran)
    check_results(project, method)
    subprocess.run(["git", "checkout", "-q", "."], cwd=project, check=True)
