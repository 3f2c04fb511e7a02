"""Where the student fails: accuracy by class, place, length and leak, and confident mistakes."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from stages.distil.evaluation.statistics import score
from stages.distil.language.words import spread
from stages.distil.reporting.answers import confidence
from stages.distil.storage import tables

BINS = 4  # of lengths
CONFIDENT = 12  # wrong answers

Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """Some of the test questions, the student's score on them, and its usual wrong answer."""

    name: str
    score: dict[str, float | int]
    instead: str = ""


@dataclass(frozen=True)
class Failures:
    """Parts of the test questions, and the wrong answers that the student was most sure of.

    `chance` is the mean over the questions of 1 / number of options; None if they have none.
    `outside` counts the answers that are none of the options. `parts` has lists of parts by what
    divides them; lists of fewer than two parts are left out.
    """

    chance: float | None
    outside: int
    parts: dict[str, list[Part]]
    confident: list[Row]


@dataclass
class _Tally:
    """Counts over the test questions; the keys end with whether the answer is right."""

    options: Counter[int] = field(default_factory=Counter)  # questions by number of options
    outside: int = 0
    classes: Counter[tuple[str, bool]] = field(default_factory=Counter)
    instead: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    places: Counter[tuple[int, bool]] = field(default_factory=Counter)
    words: Counter[tuple[int, bool]] = field(default_factory=Counter)
    reasoning: Counter[tuple[int, bool]] = field(default_factory=Counter)
    copies: Counter[tuple[bool, bool]] = field(default_factory=Counter)


def find_failures(classes: Collection[str]) -> Failures:
    """Count in the predictions; `classes` are the answers that form classes, none if too many.

    Memory holds one block of predictions, and counts.
    """
    copies = tables.scan_table(tables.NEAR_COPIES)
    copied = {row["id"] for row in copies if row["split"] == "test"}
    tally = _Tally()
    confident: list[tuple[float, int, Row]] = []
    for number, row in enumerate(tables.scan_table(tables.PREDICTIONS)):
        _count(tally, row, classes)
        tally.copies[row["id"] in copied, row["correct"]] += 1
        sure = confidence(row)
        if sure is not None and not row["correct"]:
            heapq.heappush(confident, (sure, -number, row))
            if len(confident) > CONFIDENT:
                heapq.heappop(confident)
    parts = {
        "right answer": _classes(tally),
        "place of the right answer": [] if classes else _places(tally.places),
        "length of the question": in_bins(tally.words, "words"),
        "length of the reasoning": in_bins(tally.reasoning, "tokens"),
        "near copies in train": _copies(tally.copies),
    }
    with_options = tally.options.total()
    chance = (
        sum(n / size for size, n in tally.options.items()) / with_options if with_options else 0
    )
    return Failures(
        chance=chance or None,
        outside=tally.outside,
        parts={name: divided for name, divided in parts.items() if len(divided) > 1},
        confident=[row for *_, row in sorted(confident, reverse=True)],
    )


def _count(tally: _Tally, row: Row, classes: Collection[str]) -> None:
    answer, options, right = row["answer"], row["options"], row["correct"]
    if options:
        tally.options[len(options)] += 1
        tally.outside += row["prediction"] not in options
        if answer in options:
            tally.places[options.index(answer), right] += 1
    if answer in classes:
        tally.classes[answer, right] += 1
        if not right:
            known = row["prediction"] in options or row["prediction"] in classes
            tally.instead[answer][row["prediction"] if known else "another text"] += 1
    tally.words[len(spread(row["question"]).split()), right] += 1
    if "reasoning_tokens" in row:
        tally.reasoning[row["reasoning_tokens"], right] += 1


def _score(counts: Counter[tuple[Any, bool]], key: Any) -> dict[str, float | int]:
    """Return the score on the questions that are counted under a key."""
    return score({right: counts[key, right] for right in (True, False)})


def _classes(tally: _Tally) -> list[Part]:
    """Return the classes, those with the lowest accuracy first."""
    parts = []
    for name in sorted({name for name, _ in tally.classes}):
        wrong = tally.instead[name]
        most = min(wrong, key=lambda text: (-wrong[text], text), default="")
        instead = f"{most} ({wrong[most]})" if most else ""
        parts.append(Part(name, _score(tally.classes, name), instead))
    return sorted(parts, key=lambda part: part.score["accuracy"])


def _places(counts: Counter[tuple[int, bool]]) -> list[Part]:
    return [
        Part(f"option {place + 1}", _score(counts, place))
        for place in sorted({place for place, _ in counts})
    ]


def _copies(counts: Counter[tuple[bool, bool]]) -> list[Part]:
    names = {True: "has a near copy", False: "has none"}
    return [
        Part(name, _score(counts, copied))
        for copied, name in names.items()
        if counts[copied, True] + counts[copied, False]
    ]


def in_bins(counts: Counter[tuple[int, bool]], unit: str) -> list[Part]:
    """Divide questions by a length into up to BINS parts of similar size, shortest first."""
    total = counts.total()
    bins: list[tuple[list[int], Counter[bool]]] = []
    for length in sorted({length for length, _ in counts}):
        if not bins or bins[-1][1].total() * BINS >= total:
            bins.append(([], Counter()))
        lengths, of_bin = bins[-1]
        lengths.append(length)
        for right in (True, False):
            of_bin[right] += counts[length, right]
    if len(bins) > 1 and bins[-1][1].total() * BINS * 2 < total:  # too few to stand alone
        lengths, of_bin = bins.pop()
        bins[-1][0].extend(lengths)
        bins[-1][1].update(of_bin)
    return [Part(_span(lengths[0], lengths[-1], unit), score(of_bin)) for lengths, of_bin in bins]


def _span(first: int, last: int, unit: str) -> str:
    if first == last:
        return f"{first} {unit.removesuffix('s') if first == 1 else unit}"
    return f"{first} to {last} {unit}"
