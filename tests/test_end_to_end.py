"""Every stage once with a real model, SmolLM2-135M from the package index, and the real engine."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import openai
import psutil
import pytest

from stages.assemble import assemble
from stages.card import card
from stages.distil.interface.parameters import load_parameters
from stages.distil.language.answers import parse_answer
from stages.distil.language.student_prompts import question_text
from stages.distil.reporting.release import release
from stages.distil.storage import tables
from stages.distil.student.samples import SOFT_LABELS
from stages.distil.teachers.writer import GENERATIONS
from stages.evaluate import evaluate
from stages.finetune import finetune
from stages.prepare import prepare
from stages.rationales import rationales
from stages.report import report
from stages.saliency import saliency
from stages.train import train
from tests.conftest import ROOT

pytestmark = pytest.mark.slow
TEACHER = "smollm2-135m"
CHANGES = {
    "teachers": [TEACHER],
    "saliency/teacher": TEACHER,
    "datasets/kinship/sizes": {"train": 10, "validation": 3, "test": 4, "pool": 6},
    "rationales/max_tokens": 48,
    "train/epochs": 1,
    "student/dtype": "float32",
}


@pytest.fixture
def workspace(tmp_path, tmp_path_factory, write_params, run_stage):
    """A folder with parameters and the model, fetched once for all tests."""
    fetched = tmp_path_factory.getbasetemp() / "fetched"
    fetched.mkdir(exist_ok=True)
    (tmp_path / "models").symlink_to(fetched)
    write_params(CHANGES)
    if not (fetched / TEACHER).exists():
        done = run_stage("fetch", "--model", TEACHER)
        assert done.returncode == 0, done.stderr
    return tmp_path


def count_stored(workspace: Path) -> int:
    """Count the texts in the row store."""
    path = workspace / GENERATIONS
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path, timeout=60)) as store:
        names = store.execute("SELECT name FROM sqlite_master").fetchall()
        query = "SELECT count(*) FROM generations" if names else "SELECT 0"
        return store.execute(query).fetchone()[0]


@contextmanager
def vllm_serve(model: Path, name: str) -> Iterator[str]:
    """Run vLLM's own server on a free port; yield its `url` when it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(model), "--served-model-name", name, "--dtype", "float32"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
    command += ["--generation-config", "vllm"]
    command += ["--max-num-seqs", "64", "--max-model-len", "2048", "--block-size", "32"]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    server = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while True:
            assert server.poll() is None, "the server did not start"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health")
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_a_killed_teacher_resumes_and_writes_what_a_server_writes(
    workspace, write_params, run_stage
):
    sizes = {"train": 24, "validation": 3, "test": 16, "pool": 6}
    # In bfloat16 a text depends on the rest of its batch, and a server batches by arrival.
    changes = {"rationales/max_tokens": 32, "rationales/dtype": "float32"}
    write_params({"datasets/kinship/sizes": sizes} | changes)
    assert run_stage("prepare").returncode == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.rationales", "--teacher", TEACHER],
        cwd=workspace,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    while not count_stored(workspace):
        assert process.poll() is None, "the stage ended before its engine wrote a text"
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    assert not (workspace / "data/rationales").exists()
    before = count_stored(workspace)
    done = run_stage("rationales", "--teacher", TEACHER)
    assert done.returncode == 0, done.stderr
    assert f"{24 + 16 - before} new, {before} found" in done.stderr

    with vllm_serve(workspace / "models" / TEACHER, "small") as url:
        served = {"source": "server", "url": url, "model": "small"}
        write_params({"teachers": ["served"], "models/served": served})
        done = run_stage("rationales", "--teacher", "served")
    assert done.returncode == 0, done.stderr
    both = [
        tables.read_table(workspace / tables.rationale_table(name)) for name in (TEACHER, "served")
    ]
    pairs = list(zip(*both, strict=True))
    same = sum(a["rationale"] == b["rationale"] and a["answer"] == b["answer"] for a, b in pairs)
    print(f"{same} of {len(pairs)} texts are the same")
    assert same >= 0.95 * len(pairs)
    for ours, theirs in pairs:
        assert ours["prompt_tokens"] == theirs["prompt_tokens"]


def test_the_pipeline_runs_with_a_real_model(workspace, write_params, run_stage, monkeypatch):
    monkeypatch.chdir(workspace)
    changes = CHANGES | {"rationales/dtype": "float32", "soft_labels/teacher": TEACHER}
    write_params(changes)
    parameters = load_parameters("params.yaml")
    prepare(parameters)
    done = run_stage("rationales", "--teacher", TEACHER)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for stage in (finetune, saliency, assemble, card, train, evaluate, report):
        stage(parameters)

    written = tables.read_table(tables.rationale_table(TEACHER))
    taught = [row for row in written if row["split"] == "train"]
    assert [row["id"] for row in taught] == [e.id for e in tables.read_examples("train")]
    for row in taught:
        assert 0 < row["output_tokens"] <= 48
        assert row["finish_reason"] in ("stop", "length")
        cut = row["status"] in ("truncated", "repetitive", "empty")
        assert cut or row["finish_reason"] == "stop"
    assert len({row["rationale"] for row in taught}) > 1
    test = [row for row in written if row["split"] == "test"]
    assert len(test) == 4
    assert all(row["answer"] and row["rationale"] is None for row in test)

    for row in tables.read_table(tables.SALIENCY):
        words = [row["text"][w["start"] : w["end"]] for w in row["words"]]
        assert "Options" not in words
        assert words[-1] in row["text"].split()[-1]
        assert any(w["score"] for w in row["words"])

    ok = {row["id"] for row in taught if row["status"] == "ok"}
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
    tasks = {"answer", TEACHER, "saliency", SOFT_LABELS}
    assert {file.stem for file in curves} == {"total", *tasks}
    assert str(workspace) not in (workspace / "results/metrics.json").read_text()

    release()
    folder = workspace / "models/release"
    assert (
        f"| student | {metrics['student']['accuracy']:.3f} |" in (folder / "README.md").read_text()
    )
    examples = tables.read_examples("test")
    with vllm_serve(folder, "student") as url:
        client = openai.OpenAI(base_url=url, api_key="none")
        for example, row in zip(examples, predictions, strict=True):
            text = question_text(example.question, example.options)
            message = {"role": "user", "content": text}
            reply = client.chat.completions.create(
                model="student", messages=[message], temperature=0, max_tokens=16
            )
            text = reply.choices[0].message.content
            assert parse_answer(text, example.options) == row["prediction"]

    # transformers scores the options as vLLM has.
    write_params(changes | {"rationales/backend": "transformers", "rationales/max_tokens": 8})
    rationales(load_parameters("params.yaml"), TEACHER)
    again = tables.read_table(tables.rationale_table(TEACHER))
    for ours, theirs in zip(taught, again, strict=False):
        assert ours["option_scores"] == pytest.approx(theirs["option_scores"], abs=1e-3)
