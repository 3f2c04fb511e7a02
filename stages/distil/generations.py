"""The store of everything that a teacher has written: nothing is generated twice.

Knows keys and texts; knows nothing of engines or of questions.
"""

from pathlib import Path

from stages.distil.store import Store
from stages.distil.teachers import Completion

GENERATIONS = Path(".cache/generations/generations.sqlite")  # `make clean` keeps it
COLUMNS = {
    "text": "TEXT",
    "finish_reason": "TEXT",
    "prompt_tokens": "INTEGER",
    "output_tokens": "INTEGER",
}


class Generations(Store):
    """Completions by the key of everything that determines them; a context manager."""

    def __init__(self, path: Path = GENERATIONS):
        super().__init__(path, "generations", COLUMNS)

    def get(self, key: bytes) -> Completion | None:
        """Return what was written for a key, or None."""
        row = self.select(key)
        return Completion(*row) if row else None

    def put(self, key: bytes, completion: Completion) -> None:
        """Keep a completion; where another process was first, its text stays."""
        self.insert(key, [getattr(completion, name) for name in COLUMNS])
