import pytest

from stages.distil.evaluation.statistics import by_class, f1, score, wilson_interval
from stages.distil.language.answers import is_correct

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


def test_an_answer_is_parsed_before_it_is_compared():
    texts = ["aunt", "It is the aunt.", "niece", "mother"]
    assert [is_correct(text, QUESTION) for text in texts] == [True, True, False, False]


def test_a_score_contains_its_counts():
    entry = score([True, True, False, True])
    assert (entry["accuracy"], entry["correct"], entry["questions"]) == (0.75, 3, 4)
    assert entry["low"] < 0.75 < entry["high"]


@pytest.mark.parametrize(
    ("predicted", "target", "expected"),
    [
        ("a b", "a b", 1.0),
        ("b a", "a b", 1.0),
        ("a a", "a b", 0.5),  # precision 1/2, recall 1/2
        ("a", "a b c d", 0.4),  # precision 1, recall 1/4
        ("x", "a", 0.0),
        ("", "a", 0.0),
    ],
)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(predicted, target, expected):
    assert f1(predicted.split(), target.split()) == pytest.approx(expected)


def test_the_score_of_a_class_is_that_of_its_questions():
    classes = by_class([True, False, True, True] * 2, ["yes", "no"] * 4)
    assert list(classes) == ["no", "yes"]
    assert classes == {"no": score([False, True] * 2), "yes": score([True] * 4)}


def test_answers_that_are_nearly_all_different_form_no_classes():
    assert by_class([True] * 7, ["a", "b"] * 3 + ["a"]) == {}
