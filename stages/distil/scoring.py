"""Counting right answers, and how sure a count is."""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist
from typing import Any

from stages.distil.answers import parse_answer, same


def is_correct(text: str, question: dict[str, Any]) -> bool:
    """Return whether a generated text answers a question (a row with `options` and `answer`)."""
    return same(parse_answer(text, question["options"]), question["answer"])


def accuracy(texts: Sequence[str], questions: Sequence[dict[str, Any]]) -> float:
    """Return the share of texts that answer their question."""
    right = sum(is_correct(t, q) for t, q in zip(texts, questions, strict=True))
    return right / len(questions)


def wilson_interval(right: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the score interval of a proportion (Wilson, JASA 1927)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = right / total, z * z / total
    middle = share + spread / 2
    half = z * sqrt(share * (1 - share) / total + spread / total / 4)
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def score(correct: Sequence[bool]) -> dict[str, float | int]:
    """Return accuracy, its 95 % interval and the counts behind it."""
    right, total = sum(correct), len(correct)
    low, high = wilson_interval(right, total)
    return {
        "accuracy": round(right / total, 6),
        "low": round(low, 6),
        "high": round(high, 6),
        "correct": right,
        "questions": total,
    }
