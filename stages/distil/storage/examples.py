"""One question, as every source yields it and every stage reads it."""

from dataclasses import dataclass, field
from typing import Any

POOL = "pool"  # solved questions for prompts, kept apart from the three splits
SPLITS = ("train", "validation", "test", POOL)


@dataclass(frozen=True)
class Example:
    """A question with its answer; `options` is empty when the answer is free-form.

    `rationales` holds what the data set itself carries: name of a teacher to its text.
    """

    id: str
    split: str
    question: str
    options: list[str]
    answer: str
    rationales: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """A row as a file or a hub holds it, before anything is known of its meaning.

    `source` and `row` (counted from 1) say where it stands, `text` is the row as found; `error`
    says why there is no `value`.
    """

    split: str
    source: str
    row: int
    text: str
    value: Any = None
    error: str = ""


@dataclass(frozen=True)
class Rejected:
    """A row that is no question: where it stands (rows count from 1) and why.

    `repeated` tells a sound question that was met before from a bad row.
    """

    source: str
    row: int
    reason: str
    text: str
    repeated: bool = False
