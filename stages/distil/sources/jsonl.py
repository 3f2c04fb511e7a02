"""Questions from a folder of JSON lines: train.jsonl, validation.jsonl and test.jsonl.

Each line is an object with `id`, `question`, `options` (list, empty when free-form), `answer` (one
of the options where there are any) and optionally `rationales` (teacher to text).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stages.distil.errors import UserError
from stages.distil.examples import Example
from stages.distil.parameters import Jsonl


@dataclass(frozen=True)
class Rejected:
    """A row that is no question: where it stands (rows count from 1) and why."""

    source: str
    row: int
    reason: str
    text: str


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    id: str = Field(min_length=1)
    question: str = Field(pattern=r"\S")
    options: list[str] = []
    answer: str = Field(pattern=r"\S")
    rationales: dict[str, str] = {}

    @model_validator(mode="after")
    def _answer_is_an_option(self) -> "_Row":
        if len(set(self.options)) < len(self.options):
            raise ValueError("two options are equal")
        if self.options and self.answer not in self.options:
            raise ValueError(f"answer {self.answer!r} is none of the options")
        return self


def read(settings: Jsonl) -> Iterator[Example | Rejected]:
    """Yield the rows of each split in file order; an id or question met before is rejected.

    Test is read first and train last, so that a question standing in two splits leaves train.
    """
    ids: set[str] = set()
    questions: set[tuple[str, tuple[str, ...]]] = set()
    for split in ("test", "validation", "train"):
        path = settings.folder / f"{split}.jsonl"
        wanted = getattr(settings.sizes, split)
        found = 0
        try:
            lines = path.open("rb")
        except FileNotFoundError:
            raise UserError(
                f"{path}: no such file; datasets.*.folder needs train.jsonl, validation.jsonl and "
                "test.jsonl"
            ) from None
        with lines:
            for number, line in enumerate(lines, start=1):
                if wanted is not None and found == wanted:
                    break
                if not line.strip():
                    continue
                row = _parse(line)
                if isinstance(row, _Row):
                    key = (row.question, tuple(sorted(row.options)))
                    if row.id in ids:
                        row = f"id {row.id!r} stands on an earlier row"
                    elif key in questions:
                        row = "the same question stands on an earlier row"
                if isinstance(row, str):
                    yield Rejected(
                        str(path), number, row, line.decode(errors="replace").rstrip("\n")
                    )
                    continue
                ids.add(row.id)
                questions.add(key)
                found += 1
                yield Example(row.id, split, row.question, row.options, row.answer, row.rationales)


def _parse(line: bytes) -> _Row | str:
    """Return the row, or the reason why there is none."""
    try:
        value: Any = json.loads(line)
    except UnicodeDecodeError:
        return "not UTF-8"
    except (json.JSONDecodeError, RecursionError) as error:
        return f"not JSON: {error}"
    if not isinstance(value, dict):
        return f"expected a JSON object, found {type(value).__name__}"
    try:
        return _Row.model_validate(value)
    except ValidationError as error:
        details = error.errors()[0]
        where = ".".join(map(str, details["loc"]))
        message = details["msg"].removeprefix("Value error, ")
        return f"{where}: {message[0].lower()}{message[1:]}" if where else message
