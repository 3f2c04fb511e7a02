"""`make figures` with a tiny model and real experiments in DVC's queue."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.distil.experiments.figures import RUNS
from tests.conftest import question, write_jsonl
from tests.test_pipeline import PARAMETERS, dvc, make_project
from tests.warm_python import interpreter

pytestmark = pytest.mark.slow
GRID = {
    "methods": {"plain": ["alpha=0", "saliency.weight=0"], "taught": []},
    "baseline": "plain",
    "case": "taught",
    "jobs": 2,
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
    shutil.rmtree(folder / RUNS)  # they belong to this repository
    return folder


def make_figures(project: Path, **more: dict) -> subprocess.CompletedProcess[str]:
    grid = GRID | {"figures": GRID["figures"] | more}
    with (project / "stages/figures/tiny.yaml").open("w") as file:
        YAML().dump(grid, file)
    return subprocess.run(
        [sys.executable, "-m", "stages.distil.experiments.figures", "--scale", "tiny"],
        cwd=project,
        env=os.environ | {"STAGES_PYTHON": interpreter()},
        capture_output=True,
        text=True,
    )


def written(project: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (project / "results/figures/tiny").iterdir()}


def without_digests(names: Iterable[str]) -> set[str]:
    """Return the names of runs without their digests."""
    return {name.rpartition("-")[0] for name in names}


def test_trainings_are_stored_when_one_fails_and_figures_are_drawn_from_them(project):
    before = (project / "params.yaml").read_bytes()
    done = make_figures(project, top_k=TOP_K, broken=BROKEN)
    assert done.returncode == 1
    assert "4 trainings, 4 of them to run" in done.stderr  # top_k 2 is the default
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("figures: error: 1 of 4 trainings failed: plain-missing-0-")
    assert "dvc queue logs plain-missing-0-" in last
    assert "Traceback" not in done.stderr
    assert not (project / "results/figures/tiny").exists()
    ended = {"plain-0", "taught-0", "taught-1-0"}
    assert without_digests(dvc(project, "exp", "list", "--name-only").split()) == ended
    assert without_digests(file.stem for file in (project / RUNS).iterdir()) == ended

    dvc(project, "exp", "remove", "-A")  # as in another clone
    drawn = make_figures(project, top_k=TOP_K)
    assert drawn.returncode == 0, drawn.stdout + drawn.stderr
    assert "3 trainings, 0 of them to run" in drawn.stderr
    first = written(project)
    both = {f"{name}.{kind}" for name in ("methods", "top_k") for kind in ("csv", "svg")}
    assert set(first) == {*both, "metrics.json", "cases.md", "data.json"}
    plain, taught = csv.DictReader(first["methods.csv"].decode().splitlines())
    gain = float(taught["accuracy"]) - float(plain["accuracy"])
    assert plain["gain"] == ""
    assert float(taught["gain"]) == pytest.approx(gain, abs=1e-5)
    assert json.loads(first["data.json"]) == {"methods": ["balls"], "top_k": ["balls"]}
    metrics = json.loads(first["metrics.json"])
    assert metrics == {"gain": {"taught": float(taught["gain"])}, "headroom": {}}

    assert make_figures(project, top_k=TOP_K).returncode == 0
    assert written(project) == first
    again = make_figures(project, top_k=TOP_K, broken=BROKEN)
    assert again.returncode == 1
    assert "4 trainings, 1 of them to run" in again.stderr
    assert written(project) == first  # a failed training leaves the figures unchanged
    assert (project / "params.yaml").read_bytes() == before
    folders = (project / ".dvc/tmp/exps").iterdir()
    assert [folder for folder in folders if folder.name.startswith("tmp")] == []
