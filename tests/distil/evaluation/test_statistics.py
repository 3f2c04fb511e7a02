import pytest

from stages.distil.evaluation.statistics import by_class, f1, score, wilson_interval
from stages.distil.language.answers import accuracy

QUESTION = {"options": ["aunt", "niece"], "answer": "aunt"}


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    # Newcombe (Statistics in Medicine 1998), table I, method 3
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_wilsons(right, total, low, high):
    assert wilson_interval(right, total) == pytest.approx((low, high), abs=5e-5)


def test_accuracy_reads_answers_as_every_stage_does():
    assert accuracy(["aunt", "It is the aunt.", "niece", "mother"], [QUESTION] * 4) == 0.5


def test_a_score_holds_the_counts_behind_it():
    found = score([True, True, False, True])
    assert (found["accuracy"], found["correct"], found["questions"]) == (0.75, 3, 4)
    assert found["low"] < 0.75 < found["high"]


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        ("a b", "a b", 1.0),
        ("b a", "a b", 1.0),
        ("a a", "a b", 0.5),  # precision 1/2, recall 1/2
        ("a", "a b c d", 0.4),  # precision 1, recall 1/4
        ("x", "a", 0.0),
        ("", "a", 0.0),
    ],
)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(found, wanted, expected):
    assert f1(found.split(), wanted.split()) == pytest.approx(expected)


def test_a_class_has_the_score_of_its_questions():
    found = by_class([True, False, True, True] * 2, ["yes", "no"] * 4)
    assert list(found) == ["no", "yes"]
    assert found == {"no": score([False, True] * 2), "yes": score([True] * 4)}


def test_answers_that_are_nearly_all_different_are_no_classes():
    assert by_class([True] * 7, ["a", "b"] * 3 + ["a"]) == {}
