"""The test questions as cards: what the student answered, each way, and what others answered."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stages.distil.language.answers import is_correct, parse_answer

Row = dict[str, Any]
WAYS = {"direct": "student, directly", "voted": "student, by vote"}  # by the columns' prefix
RUNS = "Stored runs"  # a group of comparisons


@dataclass(frozen=True)
class Said:
    """An answer to a test question: whose, what, whether it is right, and the text it came in."""

    who: str
    answer: str
    right: bool
    text: str = ""


@dataclass(frozen=True)
class Card:
    """A test question with its options and their shares of probability, and with every answer.

    `kinds` are what the page filters by; `changed` the comparisons (`name_comparisons`) that are
    right where the student is wrong, or the reverse; `runs` the options that other runs chose, as
    numbers, or `-`.
    """

    question: Row
    options: list[tuple[str, float | None]]
    answers: list[Said]
    kinds: list[str]
    changed: list[int]
    runs: list[str]


def option_shares(row: Row) -> list[float]:
    """Return each option's share of probability, by the mean log-probability of its tokens.

    Empty if a question has no scored options.
    """
    scores = row["scores"]
    if not scores or len(scores) != len(row["options"]) or not all(map(math.isfinite, scores)):
        return []
    weights = [math.exp(value - max(scores)) for value in scores]
    return [weight / sum(weights) for weight in weights]


def confidence(row: Row) -> float | None:
    """Return the share of probability of the student's answer; None if it is no scored option."""
    shares = option_shares(row)
    if not shares or row["prediction"] not in row["options"]:
        return None
    return shares[row["options"].index(row["prediction"])]


def name_comparisons(
    rows: list[Row], teachers: dict[str, list[Row]], runs: dict[str, list[Row]]
) -> list[tuple[str, list[str]]]:
    """Return what the student's answers can be compared with, in groups.

    The numbers in `Card.changed` count through all groups.
    """
    ways = [label for way, label in WAYS.items() if rows and f"{way}_prediction" in rows[0]]
    answered = [name for name, of in teachers.items() if any(r["split"] == "test" for r in of)]
    groups = [("Ways of answering", ways), ("Teachers", answered), (RUNS, [*runs])]
    return [(group, names) for group, names in groups if names]


def make_cards(
    rows: list[Row], teachers: dict[str, list[Row]], runs: dict[str, list[Row]]
) -> Iterator[Card]:
    """Yield a card for each prediction.

    `teachers` are rows of their tables; `runs` have an answer for each of `rows`, or are empty.
    """
    numbers = {
        name: number
        for number, name in enumerate(
            name for _, names in name_comparisons(rows, teachers, runs) for name in names
        )
    }
    written = {
        name: {row["id"]: row["answer"] for row in of if row["split"] == "test"}
        for name, of in teachers.items()
    }
    for place, row in enumerate(rows):
        options, correct = row["options"], row["correct"]
        own = [_student(row)]
        own += [
            Said(label, row[f"{way}_prediction"], row[f"{way}_correct"])
            for way, label in WAYS.items()
            if f"{way}_prediction" in row
        ]
        others = [
            _teacher(name, texts[row["id"]] or "", row)
            for name, texts in written.items()
            if row["id"] in texts
        ]
        shares: list[float] | list[None] = option_shares(row) or [None] * len(options)
        there = {said.who: said.right for said in own[1:] + others}
        there |= {name: of[place]["correct"] for name, of in runs.items()}
        yield Card(
            question=row,
            options=list(zip(options, shares, strict=True)),
            answers=own + others,
            kinds=_kinds(correct, others),
            changed=[numbers[name] for name, right in there.items() if right != correct],
            runs=[_place(options, of[place]["prediction"]) for of in runs.values()],
        )


def _student(row: Row) -> Said:
    if "reasoning" not in row:
        return Said("student", row["prediction"], row["correct"])
    who = f"student, after {row['reasoning_tokens']} tokens of reasoning"
    return Said(who, row["prediction"], row["correct"], row["reasoning"])


def _teacher(name: str, text: str, row: Row) -> Said:
    answer = parse_answer(text, row["options"])
    right = is_correct(text, row)
    return Said(name, answer, right, "" if text.strip() == answer else text)


def _kinds(correct: bool, teachers: list[Said]) -> list[str]:
    kinds = ["right" if correct else "wrong"]
    if teachers:
        helped = any(said.right for said in teachers)
        kinds += ["alone"] if correct and not helped else []
        kinds += ["missed"] if helped and not correct else []
    return kinds


def _place(options: list[str], prediction: str) -> str:
    return str(options.index(prediction)) if prediction in options else "-"
