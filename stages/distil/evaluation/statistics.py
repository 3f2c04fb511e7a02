"""Accuracy with intervals, accuracy by class, and F1 of words."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from statistics import NormalDist

FEWEST = 4  # questions per class, on average


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (Wilson, JASA 1927)."""
    z = NormalDist().inv_cdf(0.975)
    share, spread = right / total, z * z / total
    middle = share + spread / 2
    half = z * sqrt(share * (1 - share) / total + spread / total / 4)
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def score(correct: Iterable[bool] | Mapping[bool, int]) -> dict[str, float | int]:
    """Return accuracy, its 95 % interval and the underlying counts.

    `correct` says of each answer whether it is right, or how many are right and wrong.
    """
    counts = Counter(correct)
    right, total = counts[True], counts.total()
    low, high = wilson_interval(right, total)
    return {
        "accuracy": round(right / total, 6),
        "low": round(low, 6),
        "high": round(high, 6),
        "correct": right,
        "questions": total,
    }


def f1(predicted: Sequence[str], target: Sequence[str]) -> float:
    """Return the harmonic mean of precision and recall of words; repeated words count repeatedly.

    SQuAD's F1 (Rajpurkar et al., EMNLP 2016, section 6.1).
    """
    shared = (Counter(predicted) & Counter(target)).total()
    return 2 * shared / (len(predicted) + len(target)) if shared else 0.0


def by_class(correct: Iterable[bool], answers: Iterable[str]) -> dict[str, dict[str, float | int]]:
    """Return the score of each class (a gold answer), in alphabetical order.

    Empty if there are fewer than FEWEST questions per answer on average.
    """
    counts = Counter(zip(answers, correct, strict=True))
    classes = sorted({answer for answer, _ in counts})
    if counts.total() < FEWEST * len(classes):
        return {}
    return {
        name: score({right: counts[name, right] for right in (True, False)}) for name in classes
    }
