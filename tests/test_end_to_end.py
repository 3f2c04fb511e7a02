"""Every stage once, on a real model and the real engine: SmolLM2-135M from the package index."""

import json

from stages.distil import tables

TEACHER = "smollm2-135m"
CHANGES = {
    "teachers": [TEACHER],
    "saliency/teacher": TEACHER,
    "datasets/kinship/sizes": {"train": 10, "validation": 3, "test": 4, "pool": 6},
    "rationales/max_tokens": 48,
    "train/epochs": 1,
}


def test_the_pipeline_runs_on_real_parts(tmp_path, write_params, run_stage, monkeypatch):
    write_params(CHANGES)
    for stage, *arguments in [
        ("fetch", "--model", TEACHER),
        ("prepare",),
        ("rationales", "--teacher", TEACHER),
        ("saliency",),
        ("assemble",),
        ("train",),
        ("evaluate",),
    ]:
        done = run_stage(stage, *arguments)
        assert done.returncode == 0, f"{stage}: {done.stderr}"
        assert "Traceback" not in done.stderr
    monkeypatch.chdir(tmp_path)

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

    metrics = json.loads((tmp_path / "results/metrics.json").read_text())
    assert metrics["student"]["questions"] == metrics["teachers"][TEACHER]["questions"] == 4
    predictions = tables.read_table(tables.PREDICTIONS)
    assert sum(row["correct"] for row in predictions) == metrics["student"]["correct"]
    curves = (tmp_path / "results/train/plots/metrics/loss").iterdir()
    assert {file.stem for file in curves} == {"total", "answer", TEACHER, "saliency"}
    assert str(tmp_path) not in (tmp_path / "results/metrics.json").read_text()
