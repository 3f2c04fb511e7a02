"""What the teachers wrote for the train question that is most like another question."""

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import pyarrow.compute as pc

from stages.distil.language.answers import normalise
from stages.distil.storage import tables
from stages.distil.storage.examples import Example
from stages.distil.teachers.in_context import ExampleGenerator

MOST = 50_000  # train questions that are compared
COLUMNS = ("id", "split", "rationale", "status")


class Rationale(NamedTuple):
    """A teacher's rationale and its status (docs/teachers.md); the text may be empty."""

    teacher: str
    status: str
    text: str


class Lesson(NamedTuple):
    """A train question, and all that the teachers wrote for it, taught or not."""

    example: Example
    rationales: list[Rationale]


class Lessons:
    """The first train questions, of which the nearest one is found by TF-IDF."""

    def __init__(self, teachers: Sequence[str]):
        """Read the questions; raise `UserError` if a table is missing."""
        for path in map(tables.rationale_table, teachers):
            tables.check_exists(path)
        self._teachers = teachers
        examples = list(islice(tables.scan_examples("train"), MOST))
        self._by_text = {normalise(example.question): example for example in examples}
        pool = [(example, "") for example in examples]
        self._similar = ExampleGenerator(pool, "similar", count=1, seed=0)

    def nearest(self, question: str) -> Lesson | None:
        """Return the train question with this text, or else the most similar one."""
        example = self._by_text.get(normalise(question))
        if example is None:
            chosen = self._similar.choose(Example("", "test", question, [], ""))
            if not chosen:
                return None
            [(example, _)] = chosen
        rationales = [text for name in self._teachers for text in _written(name, example.id)]
        return Lesson(example, rationales)


def _written(teacher: str, name: str) -> list[Rationale]:
    """Return a teacher's rationales of the train question with this id."""
    rows = []
    for group in tables.scan_row_groups(tables.rationale_table(teacher), COLUMNS, "train"):
        rows += group.filter(pc.equal(group["id"], name)).to_pylist()
    return [Rationale(teacher, row["status"] or "", row["rationale"] or "") for row in rows]
