"""What the report says of the training."""

import json

import pytest

from stages.distil.reporting.curves import read_curves, read_summary, read_tokens
from stages.distil.storage import tables
from tests.conftest import ROOT


def test_curves_are_read_by_name(tmp_path):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss/total.tsv").write_text("step\ttotal\n3\t1.5\n6\t1.25\n")
    assert read_curves(tmp_path) == {"loss/total": [(3, 1.5), (6, 1.25)]}
    assert read_curves(tmp_path / "nowhere") == {}


def test_the_committed_summary_is_read():
    summary = read_summary(ROOT / "results/train/metrics.json")
    assert summary["steps"] == 180
    assert 0 < summary["accuracy"] < 1


@pytest.mark.parametrize("content", [{}, {"validation": {"accuracy": None}}])
def test_values_that_were_not_measured_are_left_out(tmp_path, content):
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps(content))
    assert read_summary(file) == {}


def test_tokens_are_counted_by_kind_of_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [("context", 30, 1), ("context", 10, 2), ("answer", 2, 3)]
    names = ("text", "tokens", "rows")
    tables.write_table(tables.LENGTHS, [dict(zip(names, row, strict=True)) for row in rows])
    assert read_tokens() == [
        {"text": "context", "texts": 3, "tokens": 50, "median": 10, "longest": 30},
        {"text": "answer", "texts": 3, "tokens": 6, "median": 2, "longest": 2},
    ]
