from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.distil.interface.catalogue import Files
from stages.distil.questions.fields import Questions
from stages.distil.storage.examples import Example, Record, Rejected


def read(rows: list, **changes) -> list[Example | Rejected]:
    data_set = Files(source="files", folder=".", **changes)
    records = [Record("train", "f", n, "", row) for n, row in enumerate(rows, start=1)]
    return list(Questions(data_set, 1_000, Counter()).accept(records))


ROW = {"id": "1", "question": "Who?", "options": ["Ann", "Bob", "Cy"], "answer": "Bob"}


@pytest.mark.parametrize(
    "answer", ["Bob", " bob ", "B", "b", 1, "1", ["Bob"]], ids=lambda a: repr(a)
)
def test_an_answer_is_a_text_a_letter_or_an_index(answer):
    (example,) = read([ROW | {"answer": answer}])
    assert isinstance(example, Example), example
    assert example.answer == "Bob"


def test_an_options_text_takes_precedence_over_its_index():
    (example,) = read([ROW | {"options": ["2", "1", "0"], "answer": "1"}])
    assert example.answer == "1"


def test_indices_can_start_at_one():
    (example,) = read([ROW | {"answer": 1}], fields={"first_index": 1})
    assert example.answer == "Ann"


def test_option_names_take_precedence_over_letters():
    row = ROW | {"keys": ["B", "C", "A"], "answer": "B"}
    (example,) = read([row], fields={"option_names": "keys"})
    assert example.answer == "Ann"


def test_names_that_do_not_match_the_options_are_refused():
    (row,) = read([ROW | {"keys": ["A"], "answer": "A"}], fields={"option_names": "keys"})
    assert "keys: expected one name for each option" in row.reason


def test_a_field_that_is_set_must_exist_but_a_default_need_not():
    free = {"id": "1", "question": "Who?", "answer": "Ann"}
    assert read([free])[0].options == []
    assert "choices: missing" in read([free], fields={"options": "choices"})[0].reason


def test_white_space_and_case_do_not_hide_a_repeated_question():
    first, second = read([ROW, ROW | {"id": "2", "question": " who?  "}])
    assert isinstance(first, Example)
    assert "the same question" in second.reason


def test_the_same_question_with_other_options_is_a_different_question():
    rows = read([ROW, ROW | {"id": "2", "options": ["Ann", "Bob", "Di"]}])
    assert all(isinstance(row, Example) for row in rows)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=8,
)
names = ["id", "question", "options", "answer", "rationales"]
rows = (
    json_values
    | st.dictionaries(st.sampled_from(names), json_values)
    | st.fixed_dictionaries(
        {
            "id": st.text(min_size=1, max_size=3),
            "question": st.text(max_size=4),
            "options": st.lists(st.text(max_size=2), max_size=3),
            "answer": st.text(max_size=2) | st.integers(-2, 4),
        }
    )
)


@given(st.lists(rows, max_size=12))
@settings(max_examples=300)
def test_every_row_is_accepted_or_refused(values):
    results = read(values)
    assert len(results) == len(values)
    for row in results:
        if isinstance(row, Example):
            assert row.question.strip() and row.answer.strip()
            assert not row.options or row.answer in row.options
            " ".join([row.id, row.question, row.answer, *row.options]).encode()
        else:
            assert row.reason
