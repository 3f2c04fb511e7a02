"""A data set as one student's tokens: memory-mapped Arrow files, which all processes share.

The stage `encode` writes them (`writing`), `train` and `evaluate` read them.
"""

import json
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, overload

import pyarrow as pa

from stages.distil.encoding.samples import Branch, Sample, Window, fit_targets, of_tasks
from stages.distil.storage import tables
from stages.distil.storage.content import file_digest

WINDOW = tables.ENCODED / "window.json"
PART = 1024  # questions of a record batch
TOKENS = pa.list_(pa.int32())
BRANCH = pa.struct(
    {
        "task": pa.string(),
        "prefix": TOKENS,
        "target": TOKENS,
        "after_answer": pa.bool_(),
        "score": pa.float64(),
        "answer": pa.int32(),
    }
)
SAMPLE = pa.struct(
    {
        "id": pa.string(),
        "context": TOKENS,
        "branches": pa.list_(BRANCH),
        "head": pa.int32(),
        "least": pa.int32(),
    }
)
TAUGHT_ROW = pa.schema({"samples": pa.list_(SAMPLE)})
ASKED_ROW = pa.schema(
    {
        "prompt": SAMPLE,
        "reasoning": SAMPLE,
        "drafts": pa.list_(TOKENS),
        "options": pa.list_(pa.string()),
        "answer": pa.string(),
    }
)
T = TypeVar("T")


class Asked(NamedTuple):
    """A question that the student answers.

    `prompt` is a sample with one branch, without a target, and `reasoning` another one, that asks
    for a rationale and an answer after it, if the student has learnt to reason; `drafts` are the
    tokens of the options as answers, end-of-text included.
    """

    prompt: Sample
    reasoning: Sample | None
    drafts: list[list[int]]
    options: list[str]
    answer: str

    def reasoning_room(self, max_tokens: int) -> int:
        """Return the tokens that follow `reasoning`: a text of `max_tokens`, and an option.

        If the text gives no answer, what asks for one comes between them.
        """
        option = max(map(len, self.drafts), default=0)
        return max_tokens + len(self.prompt.branches[0].prefix) + option


class EncodedRows(Sequence[T], Generic[T]):
    """The questions of a split, each read from its file when it is asked for.

    The file is mapped, not loaded: the processes of a machine share the pages that they read, and
    the system drops pages when it needs the memory.
    """

    def __init__(self, split: str, read: Callable[[dict[str, Any]], T]):
        """Take the split, and what turns a row of its file into an item of the sequence.

        Raises `UserError` if the file is missing.
        """
        from datasets import Dataset  # takes seconds, which `encode`'s processes need not spend

        file = encoded_file(split)
        tables.check_exists(file)
        self._rows = Dataset.from_file(str(file))
        self._read = read

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[T]:
        for start in range(0, len(self), PART):
            yield from self[start : start + PART]

    @overload
    def __getitem__(self, number: int) -> T: ...
    @overload
    def __getitem__(self, number: slice) -> list[T]: ...
    def __getitem__(self, number: int | slice) -> T | list[T]:
        if isinstance(number, int):
            return self._read(self._rows[number])
        columns = self._rows[number]
        rows = zip(*columns.values(), strict=True)
        return [self._read(dict(zip(columns, row, strict=True))) for row in rows]


def encoded_file(split: str) -> Path:
    """Return the file of a split's tokens."""
    return tables.ENCODED / f"{split}.arrow"


def read_window() -> Window:
    """Return how much the student reads at once; raise `UserError` if nothing is encoded."""
    tables.check_exists(WINDOW)
    return Window(**json.loads(WINDOW.read_text(encoding="utf-8")))


def read_taught(window: Window, tasks: Container[str] | None = None) -> EncodedRows[list[Sample]]:
    """Return the samples of each train question, with targets of these tasks that fit.

    Without `tasks`, samples are whole, with every target.
    """

    def read(row: dict[str, Any]) -> list[Sample]:
        samples = list(map(_to_sample, row["samples"]))
        return samples if tasks is None else fit_targets(of_tasks(samples, tasks), window)

    return EncodedRows("train", read)


def read_asked(split: str) -> EncodedRows[Asked]:
    """Return the questions of a split that the student answers; their prompts are whole."""

    def read(row: dict[str, Any]) -> Asked:
        reasoning = row["reasoning"] and _to_sample(row["reasoning"])
        return Asked(**row | {"prompt": _to_sample(row["prompt"]), "reasoning": reasoning})

    return EncodedRows(split, read)


def training_digest() -> str:
    """Return a digest of everything that a training reads."""
    return " ".join(map(file_digest, (encoded_file("train"), encoded_file("validation"), WINDOW)))


def to_row(sample: Sample) -> dict[str, Any]:
    """Return a sample as it is written; the shares of its branches depend on which are taught."""
    branches = [
        {name: value for name, value in vars(branch).items() if name != "share"}
        for branch in sample.branches
    ]
    return vars(sample) | {"branches": branches}


def _to_sample(row: dict[str, Any]) -> Sample:
    return Sample(**row | {"branches": [Branch(**branch) for branch in row["branches"]]})
