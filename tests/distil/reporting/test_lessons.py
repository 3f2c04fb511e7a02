"""What the report says was taught."""

import statistics
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.distil.interface.method import STATUSES
from stages.distil.interface.parameters import load_parameters
from stages.distil.reporting.lessons import EXAMPLES, MEANINGS, count_taught, quantiles
from stages.distil.reporting.lessons import read_written as read
from stages.distil.storage import tables
from tests.conftest import question


@given(st.lists(st.integers(0, 9), min_size=2, max_size=40).filter(any))
def test_quantiles_of_counts_are_those_of_the_values(values):
    found = quantiles(Counter(values))
    assert found["median"] == statistics.median(values)
    assert found["most"] == pytest.approx(statistics.quantiles(values, n=10)[-1], rel=1e-15)


def test_few_values_have_quantiles_too():
    assert quantiles(Counter([7])) == {"median": 7, "most": 7}
    assert quantiles(Counter([0, 0])) == quantiles(Counter()) == {}


def test_every_status_has_a_meaning():
    assert set(MEANINGS) == set(STATUSES)


def written(number: int, split: str, **changes) -> dict:
    row = {"id": f"{split}-{number}", "split": split, "sample": 0, "rationale": None}
    row |= {"status": None, "answer": None, "finish_reason": "stop", "prompt_tokens": 1}
    return row | {"output_tokens": 4} | changes


def test_the_first_rationales_of_each_status_come_with_their_questions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = [question(n) | {"split": "train", "rationales": []} for n in range(6)]
    tables.write_table(tables.EXAMPLES, asked)
    statuses = ["ok", "contradicts", "ok", "ok", "ok", "truncated"]
    rows = [
        written(n, "train", rationale=f"text {n}", status=status, answer="blue" if n == 1 else None)
        for n, status in enumerate(statuses)
    ]
    rows.append(written(0, "test", answer="red", output_tokens=99))
    tables.write_table(tables.rationale_table("big"), rows)
    result = read("big", pa.array(["train-2", "test-0"]))
    assert [row["id"] for row in result.rows] == ["train-2", "test-0"]
    assert result.lengths == {"median": 4, "most": 4}  # of rationales alone
    shown = {s: [row["rationale"] for row in of] for s, of in result.examples.items()}
    assert EXAMPLES == 3
    assert shown == {
        "ok": ["text 0", "text 2", "text 3"],
        "contradicts": ["text 1"],
        "truncated": ["text 5"],
    }
    [wrong] = result.examples["contradicts"]
    assert wrong["question"] == asked[1]["question"]
    assert (wrong["answer"], wrong["own"]) == (asked[1]["answer"], "blue")


REASONS = {"student/form": "before_answer", "student/direct": False}
OK, CUT = ("oracle", "ok"), ("human", "truncated")


@pytest.mark.parametrize(
    ("changes", "questions", "words", "rationales"),
    [
        ({}, 3, 2, {OK: 1, CUT: 1, ("human", "ok"): 1}),
        ({"alpha": 0, "saliency/weight": 0}, 3, 0, {}),
        ({"alpha": {"oracle": 0.5, "human": 0}}, 3, 2, {OK: 1}),
        (REASONS, 3, 2, {OK: 1, ("human", "ok"): 1}),
        (REASONS | {"saliency/weight": 0}, 2, 0, {OK: 1, ("human", "ok"): 1}),
        (
            REASONS | {"saliency/weight": 0, "student/direct": True},
            3,
            0,
            {OK: 1, ("human", "ok"): 1},
        ),
    ],
)
def test_what_has_a_weight_is_counted_by_teacher_and_status(
    tmp_path, monkeypatch, write_params, changes, questions, words, rationales
):
    monkeypatch.chdir(tmp_path)
    schema = tables.SCHEMAS[tables.DISTILL]
    written = [[OK, CUT], [("human", "ok")], []]
    rows = [
        {
            **{key: question(n)[key] for key in ("id", "question", "options", "answer")},
            "rationales": [{"teacher": t, "text": "x", "status": s} for t, s in listed],
            "saliency": ["red"] * (n > 0),
        }
        for n, listed in enumerate(written)
    ]
    table = pa.Table.from_pylist(rows, schema=schema)
    tables.write_shards(tables.distill_table("train"), [table.slice(0, 1), table.slice(1)], schema)
    taught = count_taught(
        load_parameters(write_params({"teachers": ["oracle", "human"]} | changes))
    )
    assert (taught.train, taught.questions, taught.words) == (3, questions, words)
    assert taught.rationales == rationales
