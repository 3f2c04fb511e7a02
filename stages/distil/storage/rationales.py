"""The teachers' rationales: their tables, and which of them are accepted."""

from collections.abc import Collection, Iterable, Iterator
from itertools import groupby
from operator import itemgetter

from stages.distil.storage.examples import Example
from stages.distil.storage.following import out_of_order
from stages.distil.storage.tables import (
    RATIONALES,
    USEFULNESS,
    rationale_table,
    scan_row_groups,
    write_text,
)


def make_folders(teachers: Collection[str]) -> None:
    """Make the folders of the teachers' tables, and leave in them no table of any other teacher.

    Stages depend on a folder as a whole. DVC leaves the table of a former teacher in it, which no
    stage has as its output any more.
    """
    for folder in (RATIONALES, USEFULNESS):
        write_text(folder / ".keep", "One table per teacher.\n")
        for table in sorted(folder.glob("*.parquet")):
            if table.stem not in teachers:
                table.unlink()


def accepted_rationales(
    examples: Iterable[Example], teacher: str, statuses: Collection[str]
) -> Iterator[tuple[Example, str]]:
    """Yield each train question with the teacher's first rationale of these statuses, or "".

    Memory holds one row group. Raises `UserError` if the table is missing or does not have the
    order of the questions.
    """
    path = rationale_table(teacher)
    groups = scan_row_groups(path, ["id", "status", "rationale"], "train")
    by_id = groupby((row for group in groups for row in group.to_pylist()), itemgetter("id"))
    name, rows = next(by_id, (None, iter(())))
    for example in examples:
        text = ""
        if name == example.id:
            accepted = (row["rationale"] for row in rows if row["status"] in statuses)
            text = next(filter(None, accepted), "")
            name, rows = next(by_id, (None, iter(())))
        yield example, text
    if name is not None:
        raise out_of_order(path, name)
