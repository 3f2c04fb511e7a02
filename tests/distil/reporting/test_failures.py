"""Where the report says that the student fails."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.distil.reporting.failures import BINS, CONFIDENT, find_failures, in_bins
from stages.distil.storage import tables
from tests.distil.reporting.test_page import prediction

COLOURS = ["red", "blue"]


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write predictions; every fourth test question has a near copy in train."""
    monkeypatch.chdir(tmp_path)

    def write(rows: list[dict], extra=()) -> None:
        schema = tables.SCHEMAS[tables.PREDICTIONS]
        for field in extra:
            schema = schema.append(field)
        with tables.TableWriter(tables.PREDICTIONS, schema) as table:
            for row in rows:
                table.write(row)
        copied = [row["id"] for row in rows[::4]]
        near = {"train_id": "train-0", "similarity": 0.9}
        copies = [{"split": "test", "id": name} | near for name in copied]
        copies.append({"split": "validation", "id": rows[1]["id"]} | near)
        tables.write_table(tables.NEAR_COPIES, copies)

    return write


def counts(parts) -> dict[str, tuple[int, int]]:
    return {part.name: (part.score["correct"], part.score["questions"]) for part in parts}


def test_questions_are_divided_by_class_length_and_leak(written):
    rows = [prediction(n, n % 4 != 0, question="Which?" + " word" * (n // 2)) for n in range(8)]
    for row in rows[::2]:
        row |= {"answer": "blue", "prediction": "blue" if row["correct"] else "red"}
    written(rows)
    failures = find_failures(COLOURS)
    assert failures.chance == 0.5
    assert counts(failures.parts["right answer"]) == {"blue": (2, 4), "red": (4, 4)}
    worst, best = failures.parts["right answer"]
    assert (worst.instead, best.instead) == ("red (2)", "")
    assert counts(failures.parts["length of the question"]) == {
        "1 word": (1, 2),
        "2 words": (2, 2),
        "3 words": (1, 2),
        "4 words": (2, 2),
    }
    assert counts(failures.parts["near copies in train"]) == {
        "has a near copy": (0, 2),
        "has none": (6, 6),
    }
    assert "place of the right answer" not in failures.parts
    assert "length of the reasoning" not in failures.parts


def test_without_classes_the_place_of_the_right_answer_counts(written):
    rows = [prediction(n, n > 0, answer="blue" if n > 1 else "red") for n in range(4)]
    written(rows)
    failures = find_failures([])
    assert "right answer" not in failures.parts
    assert counts(failures.parts["place of the right answer"]) == {
        "option 1": (1, 2),
        "option 2": (2, 2),
    }


def test_the_most_confident_wrong_answers_come_first(written):
    rows = [prediction(n, False, scores=[-float(n), 0.0]) for n in range(CONFIDENT + 5)]
    rows.append(prediction(90, True, scores=[0.0, -99.0]))
    rows.append(prediction(91, False, prediction="", scores=[0.0, -99.0]))
    written(rows)
    failures = find_failures(COLOURS)
    assert [row["id"] for row in failures.confident] == [
        f"test-{n}" for n in range(CONFIDENT + 4, 4, -1)
    ]
    assert failures.outside == 1


def test_free_form_answers_have_neither_chance_nor_confidence(written):
    written([prediction(n, n > 1, options=[], scores=[]) for n in range(4)])
    failures = find_failures([])
    assert (failures.chance, failures.outside) == (None, 0)
    assert failures.confident == []
    assert [*failures.parts] == ["near copies in train"]


def test_a_student_that_reasons_is_divided_by_its_tokens(written):
    reasoned = {"reasoning": "", "direct_prediction": "", "direct_correct": False}
    reasoned["direct_scores"] = []
    rows = [prediction(n, n < 2) | reasoned | {"reasoning_tokens": n // 2} for n in range(4)]
    written(rows, tables.REASONED)
    parts = find_failures(COLOURS).parts["length of the reasoning"]
    assert counts(parts) == {"0 tokens": (2, 2), "1 token": (0, 2)}


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=80))
def test_every_question_is_in_one_of_a_few_parts(questions):
    parts = in_bins(Counter(questions), "words")
    assert 1 <= len(parts) <= BINS
    assert sum(part.score["questions"] for part in parts) == len(questions)
    assert sum(part.score["correct"] for part in parts) == sum(right for _, right in questions)
