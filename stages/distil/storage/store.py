"""Stores of what is dear to compute: an SQLite database that outlives a kill at any moment.

In WAL mode, so that several stages may write at once. Knows keys and columns; knows nothing of what
they mean.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from stages.distil.interface.errors import UserError

PATIENCE = 60  # seconds to wait for another stage's write
VERSION = 1


class Store:
    """Values by the key of everything that determines them; a context manager.

    A value is on disk when `insert` returns, as far as a killed process can lose it. `found` and
    `written` count, for `summary`, what was there already and what was not.
    """

    def __init__(self, path: Path, table: str, columns: Mapping[str, str]):
        """Take the file, the table's name, and its columns beside the key: name to SQLite type."""
        self._path = path
        self._table = table
        self._columns = columns
        self.found = 0
        self.written = 0

    def __enter__(self) -> Self:
        columns = "".join(f", {name} {kind} NOT NULL" for name, kind in self._columns.items())
        with self._errors():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self._path, PATIENCE, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(
                f"CREATE TABLE IF NOT EXISTS {self._table} (key BLOB PRIMARY KEY{columns})"
                " WITHOUT ROWID"
            )
            version = self._database.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, VERSION):
                raise UserError(
                    f"{self._path}: a store of version {version}, this program reads {VERSION}; "
                    "move it away"
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
        """Keep a key's columns; where another process was first, its values stay."""
        names = ", ".join(["key", *self._columns])
        places = ", ".join("?" * (1 + len(self._columns)))
        with self._errors():
            self._database.execute(
                f"INSERT OR IGNORE INTO {self._table} ({names}) VALUES ({places})", [key, *values]
            )
        self.written += 1

    def summary(self) -> str:
        """Return size and hit rate, for people."""
        size = sum(f.stat().st_size for f in self._path.parent.glob(f"{self._path.name}*"))
        total = self.found + self.written
        rate = 100 * self.found / total if total else 100
        return (
            f"{self.written:,} new, {self.found:,} found in {self._path} "
            f"({rate:.0f} %; {size / 1e6:.1f} MB)"
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise UserError(
                f"{self._path}: {error}; what is written there stays; free space or move the file "
                "away, then run again"
            ) from error
