"""What the report says of the questions."""

import pytest

from stages.distil.reporting.data_counts import EXCERPT, PAIRS, count_data
from stages.distil.storage import tables
from tests.conftest import question


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    splits = ("test", "train", "pool")
    rows = [question(n, s) | {"split": s, "rationales": []} for s in splits for n in range(9)]
    tables.write_table(tables.EXAMPLES, rows[:-4])
    tables.write_table(tables.REJECTED, [])
    tables.write_table(tables.NEAR_COPIES, [])


def test_questions_are_counted_by_split():
    counts = count_data()
    assert list(counts.splits.items()) == [("train", 9), ("test", 9), ("pool", 5)]
    assert (counts.rejected, counts.copies, counts.closest) == ([], {}, [])


def test_reasons_that_differ_in_a_value_are_one_kind():
    reasons = ["no question", "answer: 'a' of 3", "answer: 'b' of 1,000"]
    rows = [
        {"source": "train.csv", "row": n, "reason": reason, "text": "x" * 1_000}
        for n, reason in enumerate(reasons)
    ]
    tables.write_table(tables.REJECTED, rows)
    kinds = count_data().rejected
    assert [(kind.reason, kind.rows) for kind in kinds] == [
        ("answer: … of …", 2),
        ("no question", 1),
    ]
    assert kinds[0].first["reason"] == "answer: 'a' of 3"
    assert kinds[0].first["text"] == "x" * EXCERPT + "…"


def test_the_most_similar_copies_are_shown_with_both_questions():
    rows = [
        {"split": "test", "id": f"test-{n}", "train_id": f"train-{n}", "similarity": 0.85 + n / 100}
        for n in range(PAIRS + 2)
    ]
    tables.write_table(tables.NEAR_COPIES, rows)
    counts = count_data()
    assert counts.copies == {"test": PAIRS + 2}
    pairs = [(question, copy) for _, _, question, copy in counts.closest]
    assert pairs == [
        (question(n, "test")["question"], question(n)["question"]) for n in range(PAIRS + 1, 1, -1)
    ]
