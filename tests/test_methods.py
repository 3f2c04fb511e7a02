"""Every method of the README's table, run as written there, by tiny students of both architectures.

A stand-in for a server plays the large teacher, whose rationales are right; the small one is the
tiny model itself.
"""

import json
import re
import shlex
import shutil
import subprocess

import pytest
from safetensors.torch import load_file

from tests.conftest import ROOT, question, write_jsonl
from tests.openai_server import Teacher, serve
from tests.test_pipeline import PARAMETERS, commit, dvc, make_project, reproduced

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

    def asked(number: int, split: str) -> dict:
        row = question(number, split)
        return row | {"rationales": {"oracle": row["rationales"]["one"]}}

    counts = {"train": 8, "validation": 3, "test": 4}
    rows = {split: [asked(n, split) for n in range(count)] for split, count in counts.items()}
    write_jsonl(folder / "balls", **rows)
    with serve(Teacher()) as url:
        changes = {
            "teachers": [LARGE, SMALL],
            "rationales": PARAMETERS["rationales"]
            | {"backend": "transformers", "dtype": "float32", "teacher_forcing": True},
            "saliency": PARAMETERS["saliency"] | {"teacher": SMALL},
            "assemble": {"statuses": ["ok"], "min_share": 0.5, "labels": "gold"},
            "student": {"model": SMALL, "dtype": "float32", "lora_rank": 0},
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
    assert len(METHODS) == 10


@pytest.mark.parametrize("method", METHODS)
def test_the_method_runs_as_written(project, method):
    overrides = shlex.split(METHODS[method][0]) if METHODS[method] else []
    ran = reproduced(dvc(project, "exp", "run", *overrides))
    assert {"train", "evaluate"} <= set(ran) or not overrides
    losses = {file.stem for file in (project / "results/train").rglob("loss/*.tsv")}
    text = " ".join(overrides)
    wanted = {"total", "answer"} if "epochs=0" not in text else set()
    if wanted and "alpha=0" not in text:
        wanted |= {"oracle"} if "oracle" in text else {LARGE}
        wanted |= {SMALL} if "teachers" not in text else set()
    if wanted and "saliency.weight=0" not in text:
        wanted |= {"saliency"}
    assert losses == wanted
    metrics = json.loads((project / "results/metrics.json").read_text())
    assert metrics["student"]["questions"] == 4
    before = load_file(project / "models" / SMALL / "model.safetensors")
    after = load_file(project / "models/student/model.safetensors")
    changed = {n for n in before if not before[n].bfloat16().equal(after[n])}
    assert bool(changed) == ("epochs=0" not in text)
    if "lora" in text:
        assert all("embed" not in name and "norm" not in name for name in changed)
    if not overrides:
        commit(project)
    subprocess.run(["git", "checkout", "-q", "."], cwd=project, check=True)
