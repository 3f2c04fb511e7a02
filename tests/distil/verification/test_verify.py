import json
import subprocess

import pytest

from stages.distil.interface.errors import UserError
from stages.distil.storage.tables import METRICS as FILE
from stages.distil.verification.verify import (
    MARGIN,
    STUDENT_TOLERANCE,
    check_gain,
    compare_locks,
    compare_losses,
    compare_metrics,
    has_same_data,
    tolerance,
    verify,
)

LOCK = """
schema: '2.0'
stages:
  prepare:
    cmd: x
    params: {params.yaml: {seed: 0}}
    outs:
    - {path: data/examples.parquet, md5: aa}
    - {path: data/rejected.parquet, md5: bb}
  train:
    cmd: y
    outs:
    - {path: models/student, md5: cc}
"""
METRICS = {"student": {"accuracy": 0.7, "low": 0.6}, "teachers": {"a": {"accuracy": 0.3}}}


def test_a_run_equals_itself():
    assert compare_locks(LOCK, LOCK) == []
    assert compare_metrics(json.dumps(METRICS), json.dumps(METRICS), True) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("md5: aa", "md5: ab", "data/examples.parquet differs from the committed one"),
        ("path: data/rejected.parquet", "path: data/other", "data/rejected.parquet differs from"),
        ("seed: 0", "seed: 1", "stage prepare has different parameters"),
        ("  train:", "  train@a:", "stage train has not run"),
    ],
)
def test_a_different_table_parameter_or_stage_is_named(old, new, message):
    assert any(message in line for line in compare_locks(LOCK, LOCK.replace(old, new)))


def test_floating_point_results_may_have_different_bytes():
    assert compare_locks(LOCK, LOCK.replace("md5: cc", "md5: dd")) == []


@pytest.mark.parametrize(
    ("model", "allowed"), [("student", STUDENT_TOLERANCE), ("teacher", tolerance(300))]
)
def test_an_accuracy_beyond_the_tolerance_is_named(model, allowed):
    current = json.loads(json.dumps(METRICS))
    entry = current["student"] if model == "student" else current["teachers"]["a"]
    entry["accuracy"] -= allowed / 2
    assert compare_metrics(json.dumps(METRICS), json.dumps(current), True) == []
    entry["accuracy"] -= allowed
    (line,) = compare_metrics(json.dumps(METRICS), json.dumps(current), True)
    assert "accuracy is" in line


def test_fewer_questions_are_allowed_a_larger_difference():
    before, after = (
        json.dumps({"teachers": {"a": {"accuracy": a, "questions": 100}}}) for a in (0.3, 0.39)
    )
    assert compare_metrics(before, after, True) == []
    few = before.replace("100", "300"), after.replace("100", "300")
    assert len(compare_metrics(*few, True)) == 1


def test_losses_are_compared_step_by_step():
    curve = "step\ttotal\n10\t2.0\n20\t1.0\n"
    assert compare_losses(curve, curve.replace("1.0", "1.05")) == []
    assert compare_losses(curve, curve.replace("1.0", "1.2")) == [
        "the loss at step 20 is 1.2, committed 1.0 ± 10%"
    ]
    assert compare_losses(curve, curve.replace("20", "21")) == ["the losses are of different steps"]


def test_a_missing_accuracy_is_named():
    current = {"student": METRICS["student"], "teachers": {}}
    assert compare_metrics(json.dumps(METRICS), json.dumps(current), True) == [
        "teachers.a.accuracy is in the committed metrics only"
    ]


@pytest.mark.parametrize(("accuracy", "expected"), [(0.31, 0), (0.3, 1), (0.1, 1)])
def test_a_student_of_other_data_must_only_be_better_than_its_teachers(accuracy, expected):
    current = METRICS | {"student": {"accuracy": accuracy}}
    lines = compare_metrics(json.dumps(METRICS), json.dumps(current), False)
    assert len(lines) == expected
    assert all("not above teachers.a.accuracy of 0.300" in line for line in lines)


def test_other_accuracies_of_the_student_are_compared_only_with_the_same_data():
    both = [METRICS | {"student": {"accuracy": 0.7, "x": {"accuracy": a}}} for a in (0.7, 0.5)]
    texts = [json.dumps(metrics) for metrics in both]
    assert compare_metrics(*texts, same_data=False) == []
    assert len(compare_metrics(*texts, same_data=True)) == 1


def test_the_students_data_is_the_output_of_encode():
    lock = "stages: {encode: {outs: [{path: data/encoded, md5: aa.dir}]}}"
    assert has_same_data(lock, lock)
    assert not has_same_data(lock, lock.replace("aa", "bb"))


def commit(folder, accuracy: float) -> str:
    (folder / FILE).parent.mkdir(exist_ok=True)
    (folder / FILE).write_text(json.dumps({"student": {"accuracy": accuracy}}))
    author = ["-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run(["git", "add", "."], cwd=folder, check=True)
    subprocess.run(["git", *author, "commit", "-qm", "x"], cwd=folder, check=True)
    head = ["git", "rev-parse", "HEAD"]
    return subprocess.run(
        head, cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_committed_accuracy_may_drop_by_the_margin_at_most(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    first = commit(tmp_path, 0.6)
    commit(tmp_path, 0.601 - MARGIN)
    check_gain(first)
    assert "student.accuracy: 0.551" in capsys.readouterr().out
    commit(tmp_path, 0.599 - MARGIN)
    with pytest.raises(UserError, match=f"student.accuracy is 0.549 .* at {first}: .* {MARGIN} at"):
        check_gain(first)
    with pytest.raises(UserError, match="not committed at nowhere"):
        check_gain("nowhere")


def test_a_clone_that_has_not_run_is_not_verified(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    (tmp_path / "dvc.lock").write_text(LOCK)
    commit(tmp_path, 0.6)
    with pytest.raises(UserError, match=r"results/predictions.parquet: no such table; `dvc repro`"):
        verify()
    (tmp_path / "results/predictions.parquet").touch()
    verify()
    assert "verified" in capsys.readouterr().out
