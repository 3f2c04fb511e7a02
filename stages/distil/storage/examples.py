"""Questions, as every source yields them and every stage reads them."""

import re
from dataclasses import dataclass, field
from typing import Any

SPLITS = ("train", "validation", "test")
POOL = "pool"  # solved questions for prompts, separate from the splits


@dataclass(frozen=True)
class Example:
    """A question with its answer; `options` is empty when the answer is free-form.

    `rationales` maps teachers' names to the rationales that the data set contains, one or several
    for each teacher.
    """

    id: str
    split: str
    question: str
    options: list[str]
    answer: str
    rationales: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """A row of a file or a hub data set, before its fields are interpreted.

    `source` and `row` (from 1) say where it is, `text` is the row as written, and `error` says why
    there is no `value`. `rationales` are those that other files have for the row.
    """

    split: str
    source: str
    row: int
    text: str
    value: Any = None
    error: str = ""
    rationales: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Unreadable:
    """The value of a field that cannot be read, such as a text that is not UTF-8.

    A row with such a field is refused if the field is used. `text` shows it in the row's text.
    """

    reason: str
    text: str

    def __str__(self) -> str:
        return self.text


VALUE = re.compile(r"'[^']*'|[0-9][0-9,]*")  # in a reason


def kind_of(reason: str) -> str:
    """Return a reason without its values: those that differ in an id or a number are one kind."""
    return VALUE.sub("…", reason)


@dataclass(frozen=True)
class Rejected:
    """A row that was not accepted as a question: where it is (rows count from 1) and why.

    `repeated` is true for a valid question that occurred earlier, false for a bad row.
    """

    source: str
    row: int
    reason: str
    text: str
    repeated: bool = False
