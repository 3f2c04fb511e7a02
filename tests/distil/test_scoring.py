import pytest

from stages.distil.scoring import accuracy, score, wilson_interval

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
