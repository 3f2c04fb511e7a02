"""Thoughts of four thousand tokens, from a teacher that thinks to a student that reasons."""

import json
import random
import shutil

import pyarrow.parquet as pq
import pytest
from transformers import AutoConfig

from stages.assemble import assemble
from stages.distil.interface.parameters import load_parameters
from stages.distil.storage import tables
from stages.encode import encode
from stages.evaluate import evaluate
from stages.prepare import prepare
from stages.rationales import rationales
from stages.saliency import saliency
from stages.train import train
from stages.usefulness import usefulness
from tests.conftest import question, write_jsonl
from tests.openai_server import Teacher, serve

TOKENS = 4000  # at least; nearly one per character
TRAIN, TEST = 6, 2


def thought(asked: str) -> str:
    """Return a long text without repetitions, which names no colour."""
    draw = random.Random(asked)
    steps = []
    while sum(map(len, steps)) < TOKENS:
        steps.append(f"Step {len(steps)}: box {draw.randrange(10**6)} is {draw.random()} away.")
    return " ".join(steps)


def thinking(number: int, body: dict):
    asked = body["messages"][-1]["content"]
    gold = asked.rpartition("Correct answer: ")[2].partition("\n")[0]
    content = f"<think>\n{thought(asked)}\n</think>\n\nSo it is {gold}." if gold != asked else "red"
    choice = {"index": 0, "finish_reason": "stop"}
    choice["message"] = {"role": "assistant", "content": content}
    usage = {"prompt_tokens": 9, "completion_tokens": TOKENS, "total_tokens": TOKENS + 9}
    answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "usage": usage}
    return 200, json.dumps(answer | {"choices": [choice]}).encode(), {}


@pytest.mark.slow
def test_a_long_thought_passes_through_all_stages(tmp_path, tiny_model, write_params, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model, tmp_path / "tiny")
    config = AutoConfig.from_pretrained(tmp_path / "tiny")
    config.max_position_embeddings = 8192
    config.save_pretrained(tmp_path / "tiny")
    rows = {split: [question(n, split) for n in range(TEST)] for split in ("validation", "test")}
    write_jsonl(tmp_path / "mine", train=[question(n) for n in range(TRAIN)], **rows)
    with serve(Teacher(thinking)) as url:
        values = {
            "data/name": "mine",
            "datasets/mine": {"source": "files", "folder": "mine"},
            "models": {
                "far": {
                    "source": "server",
                    "url": url,
                    "model": "m",
                    "max_completion_tokens": 2 * TOKENS,
                },
                "tiny": {"source": "folder", "path": str(tmp_path / "tiny")},
            },
            "teachers": ["far"],
            "rationales/examples": "none",
            "rationales/thinking": "rationale",
            "rationales/context": 8192,
            "saliency/teacher": "tiny",
            "saliency/of": "question",
            "saliency/dtype": "float32",
            "assemble/choose": "ratio",
            "assemble/scorer": "tiny",
            "student/model": "tiny",
            "student/dtype": "float32",
            "student/form": "before_answer",
            "alpha": 1.0,
            "train/epochs": 1,
            "evaluate/reasoning_tokens": TOKENS + 500,
            "evaluate/explained": 2,
        }
        parameters = load_parameters(write_params(values))
        prepare(parameters)
        rationales(parameters, "far")
    shutil.copytree(tmp_path / "tiny", tmp_path / "models/tiny")
    usefulness(parameters, "far")
    for stage in (saliency, assemble, encode, train, evaluate):
        stage(parameters)
    (rationale,) = {
        (row["status"], len(row["rationale"]) >= TOKENS)
        for row in tables.read_table(tables.rationale_table("far"))
        if row["split"] == "train"
    }
    assert rationale == ("ok", True)
    taught = tables.read_table(tables.distill_table("train"))
    assert [len(row["rationales"]) for row in taught] == [1] * TRAIN
    lengths = pq.read_table(tables.LENGTHS).to_pylist()
    assert max(row["tokens"] for row in lengths) > TOKENS / 2
    metrics = json.loads((tmp_path / "results/metrics.json").read_text())
    assert metrics["student"]["reasoned"]["questions"] == TEST
