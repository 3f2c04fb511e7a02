"""Read tables that are in the order of the questions next to them, one block at a time."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.distil.interface.errors import UserError
from stages.distil.storage.tables import EXAMPLES, read_schema, scan_row_groups

PLACE = pa.field(
    "place", pa.int64()
)  # of a row: the position of its question among those asked for


class Follower:
    """A table in the order of the questions; a question may have no row, or several."""

    def __init__(self, path: Path, columns: Sequence[str], split: str | None = None):
        """Take the table and its columns; with `split`, skip the rows of other splits."""
        self._path = path
        self._no_rows = read_schema(path, columns).append(PLACE).empty_table()
        self._batches = ahead(scan_row_groups(path, columns, split))
        self._waiting: pa.Table | None = None

    def rows_of(self, ids: pa.Array) -> pa.Table:
        """Return the rows of the next questions, with their PLACE in `ids`."""
        parts = [self._no_rows]
        last = -1
        while self._waiting is not None or self._fill():
            assert self._waiting is not None
            matched = _positions(self._waiting["id"], ids)
            count = len(matched)
            if count and (matched[0] < last or (np.diff(matched) < 0).any()):
                raise self._out_of_order(int(np.argmax(np.diff(matched, prepend=last) < 0)))
            if count:
                last = int(matched[-1])
                rows = self._waiting.slice(0, count)
                parts.append(rows.append_column(PLACE, pa.array(matched)))
            if count < len(self._waiting):
                self._waiting = self._waiting.slice(count)
                break
            self._waiting = None
        return pa.concat_tables(parts)

    def finish(self) -> None:
        """Raise `UserError` if a row is left that belongs to no question."""
        if self._waiting is not None or self._fill():
            raise self._out_of_order(0)

    def _fill(self) -> bool:
        self._waiting = next(self._batches, None)
        return self._waiting is not None

    def _out_of_order(self, place: int) -> UserError:
        assert self._waiting is not None
        return out_of_order(self._path, self._waiting["id"][place].as_py())


def out_of_order(path: Path, name: str) -> UserError:
    """Return the error of a table with a row of this id in the wrong place."""
    return UserError(
        f"{path}: row {name!r} belongs to no question, or is not in the order of the questions; "
        "delete the table and run `dvc repro`"
    )


def _positions(rows: pa.ChunkedArray, ids: pa.Array) -> np.ndarray:
    """Return the position in `ids` of each row's id, up to the first id that is not in `ids`."""
    more = len(rows) > len(ids) and rows[len(ids)] == ids[-1]  # samples of the last question
    if not more and rows.slice(0, len(ids)).equals(pa.chunked_array([ids.slice(0, len(rows))])):
        return np.arange(min(len(rows), len(ids)))
    positions = pc.index_in(rows, value_set=ids)
    valid = positions.is_valid().to_numpy(zero_copy_only=False)
    count = len(valid) if valid.all() else int(valid.argmin())
    return positions.slice(0, count).to_numpy(zero_copy_only=False).astype(np.int64)


def with_questions(
    path: Path, columns: Sequence[str], of_questions: Sequence[str], split: str, mixed: bool = True
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield blocks of a table's rows in a split, and the questions that they belong to.

    The two tables of a block have the same length: the named columns of the rows, and those of
    their questions; both have the column `id`. With `mixed`, the table also has rows of other
    splits, which are skipped. Raises `UserError` if it is not in the order of the questions.
    """
    follower = Follower(path, ["id", *columns], split if mixed else None)
    for questions in scan_row_groups(EXAMPLES, ["id", *of_questions], split):
        rows = follower.rows_of(questions["id"].combine_chunks())
        if len(rows):
            yield rows.drop_columns(PLACE.name), questions.take(rows[PLACE.name])
    follower.finish()


def ahead(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Yield tables while a thread makes the next one."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, tables, None)
        while (table := coming.result()) is not None:
            coming = pool.submit(next, tables, None)
            yield table
