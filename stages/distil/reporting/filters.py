"""The choices by which the page filters its cards."""

from collections.abc import Sequence
from dataclasses import dataclass

from stages.distil.interface.method import STATUSES
from stages.distil.reporting.answers import RUNS

KINDS = (
    ("wrong", "wrong only"),
    ("right", "right only"),
    ("missed", "wrong, a teacher right"),
    ("alone", "right, all teachers wrong"),
)


@dataclass(frozen=True)
class Choice:
    """A value that a card's attribute may have; of a stored run, `run` is its number."""

    value: str
    label: str
    run: int | None = None


@dataclass(frozen=True)
class Select:
    """A list of choices: a card is shown if its attribute has the chosen value.

    `attribute` is the name of the cards' data attribute, `everything` the choice of all cards.
    Choices are in groups, whose name may be empty.
    """

    attribute: str
    label: str
    everything: str
    groups: list[tuple[str, list[Choice]]]


def answer_filters(
    classes: Sequence[str], comparisons: Sequence[tuple[str, list[str]]]
) -> list[Select]:
    """Return the choices among test questions, by `answers.Card` and the number of the class."""
    selects = [Select("kinds", "Show", "all", [("", [Choice(*kind) for kind in KINDS])])]
    if classes:
        numbered = [Choice(str(number), name) for number, name in enumerate(classes)]
        selects.append(Select("answer", "Right answer", "any", [("", numbered)]))
    groups, first = [], 0
    for group, names in comparisons:
        choices = [
            Choice(str(first + number), name, number if group == RUNS else None)
            for number, name in enumerate(names)
        ]
        groups.append((group, choices))
        first += len(names)
    if groups:
        selects.append(Select("changed", "Changed from", "no comparison", groups))
    return selects


def lesson_filters() -> list[Select]:
    """Return the choices among train questions."""
    choices = [Choice(status, f"a rationale that is {status}") for status in STATUSES]
    return [Select("kinds", "Show", "all", [("", choices)])]
