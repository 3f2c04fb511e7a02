"""Every stage once, on a real model and the real engine: SmolLM2-135M from the package index."""

import json
import os
import subprocess
import sys

import psutil
import pytest

from stages.distil import tables
from tests.conftest import ROOT

TEACHER = "smollm2-135m"
CHANGES = {
    "teachers": [TEACHER],
    "saliency/teacher": TEACHER,
    "datasets/kinship/sizes": {"train": 10, "validation": 3, "test": 4, "pool": 6},
    "rationales/max_tokens": 48,
    "assemble/min_share": 0.0,
    "train/epochs": 1,
}


@pytest.fixture
def workspace(tmp_path, tmp_path_factory, write_params, run_stage):
    """A folder with parameters and the model, which is fetched once for all tests."""
    fetched = tmp_path_factory.getbasetemp() / "fetched"
    fetched.mkdir(exist_ok=True)
    (tmp_path / "models").symlink_to(fetched)
    write_params(CHANGES)
    if not (fetched / TEACHER).exists():
        done = run_stage("fetch", "--model", TEACHER)
        assert done.returncode == 0, done.stderr
    return tmp_path


def test_a_teacher_that_is_killed_leaves_no_process_and_no_table(workspace, run_stage):
    assert run_stage("prepare").returncode == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.rationales", "--teacher", TEACHER],
        cwd=workspace,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )
    with process, process.stderr as spoken:
        heard = b""
        while b"Processed prompts" not in heard:  # the engine is at work
            part = spoken.read1()
            assert part, f"ended before its engine ran: {heard.decode()}"
            heard += part
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    assert not (workspace / "data/rationales").exists()


def test_the_pipeline_runs_on_real_parts(workspace, run_stage, monkeypatch):
    for stage, *arguments in [
        ("prepare",),
        ("rationales", "--teacher", TEACHER),
        ("saliency",),
        ("assemble",),
        ("card",),
        ("train",),
        ("evaluate",),
    ]:
        done = run_stage(stage, *arguments)
        assert done.returncode == 0, f"{stage}: {done.stderr}"
        assert "Traceback" not in done.stderr
    monkeypatch.chdir(workspace)

    written = tables.read_table(tables.rationale_table(TEACHER))
    train = [row for row in written if row["split"] == "train"]
    assert [row["id"] for row in train] == [e.id for e in tables.read_examples("train")]
    for row in train:
        assert 0 < row["output_tokens"] <= 48
        assert row["finish_reason"] in ("stop", "length")
        assert (row["status"] == "truncated") == (row["finish_reason"] == "length")
    assert len({row["rationale"] for row in train}) > 1
    test = [row for row in written if row["split"] == "test"]
    assert len(test) == 4
    assert all(row["answer"] and row["rationale"] is None for row in test)

    for row in tables.read_table(tables.SALIENCY):
        words = [row["text"][w["start"] : w["end"]] for w in row["words"]]
        assert "Options" not in words
        assert words[-1] in row["text"].split()[-1]
        assert any(w["score"] for w in row["words"])

    ok = {row["id"] for row in train if row["status"] == "ok"}
    for row in tables.read_table(tables.distill_table("train")):
        assert {r["teacher"] for r in row["rationales"]} == (
            {TEACHER} if row["id"] in ok else set()
        )
        assert len(row["saliency"]) == 5

    metrics = json.loads((workspace / "results/metrics.json").read_text())
    assert metrics["student"]["questions"] == metrics["teachers"][TEACHER]["questions"] == 4
    predictions = tables.read_table(tables.PREDICTIONS)
    assert sum(row["correct"] for row in predictions) == metrics["student"]["correct"]
    curves = (workspace / "results/train/plots/metrics/loss").iterdir()
    assert {file.stem for file in curves} == {"total", "answer", TEACHER, "saliency"}
    assert str(workspace) not in (workspace / "results/metrics.json").read_text()
