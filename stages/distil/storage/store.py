"""Stores of results that are expensive to compute: SQLite databases that survive a kill.

They are in WAL mode, so that several stages can write at the same time.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from stages.distil.interface.errors import UserError

LOCK_TIMEOUT = 60  # seconds to wait for another stage's write
VERSION = 1


class Store:
    """Values by the key of everything that determines them; a context manager.

    Once `insert` returns, killing the process cannot lose the value. `summary` reports two counts:
    `hits`, the values that were already stored, and `written`, the new ones.
    """

    def __init__(self, path: Path, table: str, columns: Mapping[str, str]):
        """Take the file, the table's name, and the SQLite type of each column except the key."""
        self._path = path
        self._table = table
        self._columns = columns
        self.hits = 0
        self.written = 0

    def __enter__(self) -> Self:
        columns = "".join(f", {name} {kind} NOT NULL" for name, kind in self._columns.items())
        with self._errors():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self._path, LOCK_TIMEOUT, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(
                f"CREATE TABLE IF NOT EXISTS {self._table} (key BLOB PRIMARY KEY{columns})"
                " WITHOUT ROWID"
            )
            version = self._database.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, VERSION):
                raise UserError(
                    f"{self._path}: expected store version {VERSION}, found version {version}; "
                    "move the file away"
                )
            self._database.execute(f"PRAGMA user_version = {VERSION}")
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def select(self, key: bytes) -> tuple[Any, ...] | None:
        """Return the columns of a key, or None."""
        names = ", ".join(self._columns)
        with self._errors():
            return self._database.execute(
                f"SELECT {names} FROM {self._table} WHERE key = ?", [key]
            ).fetchone()

    def insert(self, key: bytes, values: Sequence[Any]) -> None:
        """Store a key's columns; if another process was first, keep its values.

        Raises `ValueError` for values that a column cannot hold, such as None.
        """
        self._write(key, values, "NOTHING")

    def replace(self, key: bytes, values: Sequence[Any]) -> None:
        """Store a key's columns in place of those that it may have; otherwise as `insert`."""
        updates = ", ".join(f"{name} = excluded.{name}" for name in self._columns)
        self._write(key, values, f"UPDATE SET {updates}")

    def delete(self, key: bytes) -> None:
        """Remove a key, if it is there."""
        with self._errors():
            self._database.execute(f"DELETE FROM {self._table} WHERE key = ?", [key])

    def _write(self, key: bytes, values: Sequence[Any], on_conflict: str) -> None:
        # Not INSERT OR IGNORE, which also ignores a value that a column refuses.
        names = ", ".join(["key", *self._columns])
        places = ", ".join("?" * (1 + len(self._columns)))
        statement = (
            f"INSERT INTO {self._table} ({names}) VALUES ({places})"
            f" ON CONFLICT (key) DO {on_conflict}"
        )
        with self._errors():
            try:
                self._database.execute(statement, [key, *values])
            except (
                OverflowError,
                UnicodeEncodeError,
                sqlite3.DataError,
                sqlite3.IntegrityError,
                sqlite3.InterfaceError,
                sqlite3.ProgrammingError,
            ) as error:
                raise ValueError(f"{self._path}: {error}; nothing was stored") from error
        self.written += 1

    def summary(self) -> str:
        """Return the counts, hit rate and size as text."""
        size = sum(f.stat().st_size for f in self._path.parent.glob(f"{self._path.name}*"))
        total = self.hits + self.written
        rate = 100 * self.hits / total if total else 100
        return (
            f"{self.written:,} new, {self.hits:,} found in {self._path} "
            f"({rate:.0f} %; {size / 1e6:.1f} MB)"
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise UserError(
                f"{self._path}: {error}; stored values are kept; free disk space or move the file "
                "away, then run again"
            ) from error
