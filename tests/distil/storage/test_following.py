"""Rows of a table next to their questions, against a dictionary."""

import pytest

from stages.distil.interface.errors import UserError
from stages.distil.storage import tables
from stages.distil.storage.following import with_questions
from tests.conftest import question

TABLE = tables.rationale_table("one")


@pytest.fixture(autouse=True)
def _examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tables, "ROW_GROUP", 4)
    splits = ["train"] * 9 + ["test"] * 7
    rows = [question(n, split, rationales=[]) for n, split in enumerate(splits)]
    tables.write_table(
        tables.EXAMPLES,
        [row | {"split": split} for row, split in zip(rows, splits, strict=True)],
    )


def rationale(number: int, split: str, sample: int = 0) -> dict:
    row = {"id": f"{split}-{number}", "split": split, "sample": sample, "answer": f"a{number}"}
    return row | {"finish_reason": "stop", "prompt_tokens": 1, "output_tokens": 1}


def test_rows_meet_their_questions():
    rows = [rationale(n, "train", s) for n in (0, 1, 4, 5, 8) for s in range(3)]
    rows += [rationale(n, "test") for n in (9, 15)]
    tables.write_table(TABLE, rows)
    for split in ("train", "test"):
        found = []
        for block, questions in with_questions(TABLE, ["answer"], ["question"], split):
            found += list(zip(block.to_pylist(), questions.to_pylist(), strict=True))
        expected = [row for row in rows if row["split"] == split]
        assert [row for row, _ in found] == [
            {"id": row["id"], "answer": row["answer"]} for row in expected
        ]
        assert [asked for _, asked in found] == [
            {"id": row["id"], "question": question(int(row["id"].split("-")[1]), split)["question"]}
            for row in expected
        ]


def test_a_row_in_another_order_is_an_error():
    tables.write_table(TABLE, [rationale(n, "train") for n in (1, 0)])
    with pytest.raises(UserError, match="row 'train-0' belongs to no question"):
        list(with_questions(TABLE, ["answer"], ["question"], "train"))


def test_a_missing_column_is_an_error():
    tables.write_table(TABLE, [rationale(0, "train")])
    with pytest.raises(UserError, match="expected columns id, thought, found id, split"):
        list(with_questions(TABLE, ["thought"], ["question"], "train"))
