"""Damaged files with results end in one line that names them."""

import json
import re
import shutil
from pathlib import Path

import pytest

from stages.distil.interface.errors import UserError
from stages.distil.reporting.curves import read_curves, read_summary
from stages.distil.reporting.other_runs import read_methods
from stages.distil.reporting.summary import print_summary
from stages.distil.storage.result_files import read_metrics
from stages.distil.storage.tables import METRICS
from stages.distil.verification.verify import compare_locks, compare_losses, compare_metrics
from tests.conftest import ROOT

WHOLE = (ROOT / METRICS).read_bytes()
DAMAGED = {
    "halved": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "not UTF-8": lambda content: b"\xff" + content[1:],
    "another type": lambda _: b"[1]",
    "nothing of it": lambda _: b"{}",
    "deep": lambda _: b"[" * 100_000,
    # Of a number: a digest of code, which is not compared, may end in 0 before `.dir`.
    "endless digits": lambda content: re.sub(rb"\b0\.", b"9" * 5_000 + b"0.", content, count=1),
    "NUL": lambda content: content[: len(content) // 2] + bytes(9),
}


@pytest.fixture(params=DAMAGED)
def damage(request):
    return DAMAGED[request.param]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with the committed results, which is the current one."""
    shutil.copytree(ROOT / "results", tmp_path / "results")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_committed_metrics_are_read_as_they_are(folder):
    assert read_metrics() == json.loads(WHOLE)


def test_damaged_metrics_are_named(folder, damage):
    METRICS.write_bytes(damage(WHOLE))
    with pytest.raises(UserError, match=r"^results/metrics.json: not as it was written .*delete"):
        print_summary()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("student.accuracy", "high"),
        ("student.accuracy", None),
        ("student.low", None),
        ("student.by_option", {}),
        ("student.words", {"f1": "x", "questions": 1}),
        ("student.classes", [1]),
        ("teachers", []),
        ("teachers.qwen-coder-1b5.rationales", {"ok": "many"}),
        ("saliency", 3),
    ],
)
def test_a_wrong_value_in_metrics_is_named(folder, key, value):
    metrics = json.loads(WHOLE)
    *parents, last = key.split(".")
    part = metrics
    for name in parents:
        part = part[name]
    part[last] = value
    METRICS.write_text(json.dumps(metrics))
    with pytest.raises(UserError, match=f"^results/metrics.json: not as it was written .{key}"):
        read_metrics()


def test_missing_metrics_are_made_by_dvc(folder):
    METRICS.unlink()
    with pytest.raises(UserError, match="^results/metrics.json: no such file; `dvc repro` makes"):
        print_summary()


@pytest.mark.parametrize("name", ["train.json", "answers@student.json"])
def test_damaged_times_are_named(folder, damage, name):
    file = Path("results/times") / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(damage(b'{"seconds": 0.5, "answers": 10}') + b"\0")
    with pytest.raises(UserError, match=f"^{file}: not as it was written .*; delete it"):
        print_summary()


def test_answers_in_no_time_have_no_rate(folder, capsys):
    Path("results/times").mkdir(exist_ok=True)
    Path("results/times/answers@student.json").write_text('{"seconds": 0.0, "answers": 10}')
    print_summary()
    assert "\nstudent " in capsys.readouterr().out


@pytest.mark.parametrize("row", [b"2", b"2\tx", b"\t0.5", b"2\t0.5\t1", b"\xff\t0.5", b"\0\0\0\0"])
def test_a_damaged_curve_is_named(folder, row):
    file = Path("results/train/plots/metrics/loss/total.tsv")
    file.write_bytes(b"step\ttotal\n1\t0.5\n" + row)
    with pytest.raises(UserError, match=f"^{file}: not as it was written .*; delete it and run"):
        read_curves(Path("results/train/plots/metrics"))


def test_a_damaged_summary_of_the_training_is_named(folder, damage):
    file = Path("results/train/metrics.json")
    file.write_bytes(damage(b'{"step": 3, "best_epoch": 0.5}') + b"\0")
    with pytest.raises(UserError, match=f"^{file}: not as it was written .*; delete it and run"):
        read_summary(file)


@pytest.mark.parametrize("content", [b"", b"method", b"method,accuracy\nx,0.5\n", b"\xff", b"\0"])
@pytest.mark.parametrize("whole", [False, True])
def test_a_damaged_table_of_methods_is_named(folder, content, whole):
    """Instead of the table, or at its end."""
    file = Path("results/figures/full/methods.csv")
    file.write_bytes((file.read_bytes() if whole else b"") + (content or b"fine-tuning,"))
    with pytest.raises(UserError, match=f"^{file}: not as it was written"):
        read_methods(Path("results/figures"), "kinship")


def test_a_damaged_file_of_either_side_is_named_when_runs_are_compared(damage):
    lock = (ROOT / "dvc.lock").read_text()
    losses = (ROOT / "results/train/plots/metrics/loss/total.tsv").read_text()
    for compare, name, text in (
        (compare_locks, "dvc.lock", lock),
        (lambda a, b: compare_metrics(a, b, True), str(METRICS), WHOLE.decode()),
        (compare_losses, "the curve of losses", losses),
    ):
        broken = damage(text.encode()).decode(errors="replace")
        for sides in ((text, broken), (broken, text)):
            try:
                differences = compare(*sides)
            except UserError as error:
                place = f"{name} (committed)" if sides[0] == broken else name
                assert str(error).startswith(f"{place}: not as it was written")
            else:  # what was damaged is not compared
                assert differences or damage is DAMAGED["not UTF-8"]
