"""`make figures` with a tiny model: real experiments in DVC's queue."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.conftest import question, write_jsonl
from tests.test_pipeline import PARAMETERS, dvc, make_project

GRID = {
    "methods": {"plain": ["alpha=0", "saliency.weight=0"], "taught": ["teachers=[one]"]},
    "baseline": "plain",
    "case": "taught",
    "figures": {"methods": {}},
}
TOP_K = {"methods": ["taught"], "parameter": "saliency.top_k", "values": [1, 2]}
BROKEN = {"methods": ["plain"], "parameter": "data.name", "values": ["balls", "missing"]}


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_model) -> Path:
    folder = tmp_path_factory.mktemp("figures")
    shutil.copytree(tiny_model, folder / "tiny")
    counts = {"train": 4, "validation": 2, "test": 3}
    rows = {split: [question(n, split) for n in range(count)] for split, count in counts.items()}
    write_jsonl(folder / "balls", **rows)
    catalogues = {
        "models": {
            "tiny": {"source": "folder", "path": "tiny"},
            "one": {"source": "provided"},
            "two": {"source": "provided"},
        },
        "datasets": {
            "balls": {"source": "files", "folder": "balls"},
            "missing": {"source": "files", "folder": "no-such-folder"},
        },
    }
    train = PARAMETERS["train"] | {"seed": None}
    make_project(folder, PARAMETERS | catalogues | {"train": train})
    return folder


def figures(project: Path, **more: dict) -> subprocess.CompletedProcess[str]:
    grid = GRID | {"figures": GRID["figures"] | more}
    with (project / "stages/figures/tiny.yaml").open("w") as file:
        YAML().dump(grid, file)
    return subprocess.run(
        [sys.executable, "-m", "stages.distil.figures", "--scale", "tiny"],
        cwd=project,
        env=os.environ | {"VIRTUAL_ENV": sys.prefix},
        capture_output=True,
        text=True,
    )


def written(project: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (project / "results/figures/tiny").iterdir()}


def test_only_what_is_missing_runs_and_figures_are_drawn(project):
    before = (project / "params.yaml").read_bytes()
    done = figures(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 trainings, 2 of them to run" in done.stderr
    assert set(written(project)) == {"methods.csv", "methods.svg", "metrics.json", "cases.md"}
    with (project / "results/figures/tiny/methods.csv").open(newline="") as file:
        plain, taught = csv.DictReader(file)
    metrics = json.loads((project / "results/figures/tiny/metrics.json").read_text())
    assert plain["gain"] == ""
    assert float(taught["gain"]) == pytest.approx(
        float(taught["accuracy"]) - float(plain["accuracy"]), abs=1e-5
    )
    assert metrics == {"gain": {"taught": float(taught["gain"])}, "headroom": {}}
    shown = json.loads(dvc(project, "exp", "show", "--json"))
    assert len(shown[1]["experiments"]) == 2

    more = figures(project, top_k=TOP_K)
    assert more.returncode == 0, more.stdout + more.stderr
    assert "3 trainings, 1 of them to run" in more.stderr  # top_k 2 is the default
    first = written(project)
    assert {"top_k.csv", "top_k.svg"} < set(first)

    again = figures(project, top_k=TOP_K)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "3 trainings, 0 of them to run" in again.stderr
    assert written(project) == first
    assert (project / "params.yaml").read_bytes() == before
    folders = (project / ".dvc/tmp/exps").iterdir()
    assert [folder for folder in folders if folder.name.startswith("tmp")] == []


def test_a_training_that_fails_is_named_and_figures_stay(project):
    before = written(project)
    done = figures(project, broken=BROKEN)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("figures: error: 1 of 1 trainings have not ended well: plain-missing-0-")
    assert "dvc queue logs plain-missing-0-" in last
    assert "Traceback" not in done.stderr
    assert written(project) == before
