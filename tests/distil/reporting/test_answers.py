"""The cards of the test questions."""

import math

import pytest

from stages.distil.reporting.answers import (
    Said,
    confidence,
    make_cards,
    name_comparisons,
    option_shares,
)
from tests.distil.reporting.test_page import prediction, rationale

REASONED = {
    "reasoning": "Red is warm.",
    "reasoning_tokens": 9,
    "direct_prediction": "blue",
    "direct_correct": False,
    "voted_prediction": "red",
    "voted_correct": True,
}


def test_shares_of_probability_add_up_to_one():
    row = prediction(0, True, scores=[-1.0, -1.0 + math.log(3)])
    assert option_shares(row) == pytest.approx([0.25, 0.75])
    assert confidence(row) == pytest.approx(0.25)
    assert confidence(row | {"prediction": "green"}) is None


@pytest.mark.parametrize("scores", [[], [-math.inf, -1.0], [math.nan, -1.0], [-1.0]])
def test_options_without_finite_scores_have_no_shares(scores):
    assert option_shares(prediction(0, True, scores=scores)) == []
    [card] = make_cards([prediction(0, True, scores=scores)], {}, {})
    assert card.options == [("red", None), ("blue", None)]


def test_each_way_of_answering_and_each_teacher_is_on_the_card():
    rows = {"big": [rationale(0, "test", answer="It is red."), rationale(0, "train")]}
    [card] = make_cards([prediction(0, True, **REASONED)], rows, {})
    assert card.answers == [
        Said("student, after 9 tokens of reasoning", "red", True, "Red is warm."),
        Said("student, directly", "blue", False),
        Said("student, by vote", "red", True),
        Said("big", "red", True, "It is red."),
    ]


def test_answers_that_changed_are_numbered_like_the_comparisons():
    rows = [prediction(0, True, **REASONED), prediction(1, False, **REASONED)]
    teachers = {
        "silent": [rationale(0, "train")],
        "big": [rationale(0, "test", answer="red"), rationale(1, "test", answer="red")],
    }
    runs = {
        "fine-tuning-0": [
            {"prediction": "blue", "correct": False},
            {"prediction": "a colour", "correct": False},
        ]
    }
    assert name_comparisons(rows, teachers, runs) == [
        ("Ways of answering", ["student, directly", "student, by vote"]),
        ("Teachers", ["big"]),
        ("Stored runs", ["fine-tuning-0"]),
    ]
    first, second = make_cards(rows, teachers, runs)
    assert (first.changed, first.runs) == ([0, 3], ["1"])
    assert (second.changed, second.runs) == ([1, 2], ["-"])
    assert name_comparisons([prediction(0, True)], {}, {}) == []


def test_kinds_say_who_was_right():
    rows = [prediction(n, n < 2) for n in range(4)]
    answers = ["red", "blue", "red", None]
    teachers = {"big": [rationale(n, "test", answer=answer) for n, answer in enumerate(answers)]}
    kinds = [card.kinds for card in make_cards(rows, teachers, {})]
    assert kinds == [["right"], ["right", "alone"], ["wrong", "missed"], ["wrong"]]
