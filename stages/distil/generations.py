"""The store of everything that a teacher has written: nothing is generated twice.

An SQLite database in WAL mode: it outlives a kill at any moment, and several stages may write at
once. Knows keys and texts; knows nothing of engines or of questions.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.distil.errors import UserError
from stages.distil.teachers import Completion

GENERATIONS = Path(".cache/generations/generations.sqlite")  # `make clean` keeps it
PATIENCE = 60  # seconds to wait for another stage's write
VERSION = 1
_COLUMNS = "text, finish_reason, prompt_tokens, output_tokens"


class Generations:
    """Completions by the key of everything that determines them; a context manager.

    A completion is on disk when `put` returns, as far as a killed process can lose it. `found` and
    `written` count what was there already and what was not.
    """

    def __init__(self, path: Path = GENERATIONS):
        self._path = path
        self.found = 0
        self.written = 0

    def __enter__(self) -> "Generations":
        with self._errors():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self._path, PATIENCE, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS generations (key BLOB PRIMARY KEY, text TEXT NOT NULL,"
                " finish_reason TEXT NOT NULL, prompt_tokens INTEGER NOT NULL,"
                " output_tokens INTEGER NOT NULL) WITHOUT ROWID"
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

    def get(self, key: bytes) -> Completion | None:
        """Return what was written for a key, or None."""
        with self._errors():
            row = self._database.execute(
                f"SELECT {_COLUMNS} FROM generations WHERE key = ?", [key]
            ).fetchone()
        return Completion(*row) if row else None

    def put(self, key: bytes, completion: Completion) -> None:
        """Keep a completion; where another process was first, its text stays."""
        with self._errors():
            self._database.execute(
                f"INSERT OR IGNORE INTO generations (key, {_COLUMNS}) VALUES (?, ?, ?, ?, ?)",
                [
                    key,
                    completion.text,
                    completion.finish_reason,
                    completion.prompt_tokens,
                    completion.output_tokens,
                ],
            )
        self.written += 1

    def summary(self) -> str:
        """Return size and hit rate, for people."""
        size = sum(f.stat().st_size for f in self._path.parent.glob(f"{self._path.name}*"))
        total = self.found + self.written
        rate = 100 * self.found / total if total else 100
        return (
            f"{self.written:,} generated, {self.found:,} found in {self._path} "
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
