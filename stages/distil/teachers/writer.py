"""A teacher writes: what the store lacks is generated, and everything is read back from it.

What is wanted can be asked for again and again, so nothing but the store holds the texts, and
memory does not grow with their number. Knows requests; knows nothing of tables.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from stages.distil.language.teacher_prompts import Conversation
from stages.distil.storage.store import Store
from stages.distil.teachers.backend import TOO_LONG, Backend, Completion, Request

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


@dataclass(frozen=True)
class Wanted:
    """A text that a teacher is to write.

    `conversations` yields the same question with fewer and fewer in-context examples: the first
    that the teacher can read is asked. `attempts` are (temperature, seed), tried in turn until
    `is_sound`; where none is, the first one's text counts.
    """

    conversations: Callable[[], Iterator[Conversation]]
    max_tokens: int
    attempts: tuple[tuple[float, int], ...] = ((0.0, 0),)
    is_sound: Callable[[Completion], bool] = lambda completion: True


class Author:
    """A teacher whose texts are kept: its backend starts only when one is missing."""

    def __init__(self, teacher: str, start: Callable[[], Backend], store: Generations):
        """Take the teacher's `identity`, what starts its backend, and the store."""
        self._teacher = teacher
        self._start = start
        self._store = store
        self._backend: Backend | None = None
        self._too_long: set[bytes] = set()

    def write(
        self, wanted: Callable[[], Iterable[Wanted]], total: int, label: str
    ) -> tuple[int, float]:
        """Generate every wanted text that is missing; `wanted` is asked again until none is.

        Returns how many texts that took, and the seconds, the backend's start not counted.
        """
        first_time = True
        count, seconds = 0, 0.0
        while True:
            with tqdm(
                total=total if first_time else None,
                desc=label if first_time else f"{label}, again",
                delay=0 if first_time else 5,  # mostly there is nothing left
                unit="text",
                file=sys.stderr,
            ) as progress:
                in_flight: set[bytes] = set()
                missing = self._missing(wanted(), in_flight, progress if first_time else None)
                first = next(missing, None)
                if first is None:
                    return count, seconds
                if self._backend is None:
                    self._backend = self._start()
                start = time.monotonic()
                for request, completion in self._backend.complete(chain([first], missing)):
                    key = request.key(self._teacher)
                    if completion.finish_reason == TOO_LONG:
                        self._too_long.add(key)
                    else:
                        self._store.put(key, completion)
                    in_flight.discard(key)
                    progress.update()
                    count += 1
                seconds += time.monotonic() - start
            first_time = False

    def read(self, wanted: Wanted) -> Completion:
        """Return a text that `write` has seen to; `too_long` where no conversation was read."""
        request, completion = self._look(wanted)
        if completion is None:
            raise LookupError(f"nothing was written for {request}")
        return completion

    def _missing(
        self, wanted: Iterable[Wanted], in_flight: set[bytes], progress: "tqdm | None"
    ) -> Iterator[Request]:
        for one in wanted:
            request, _ = self._look(one)
            if request is None:
                if progress is not None:
                    self._store.found += 1
                    progress.update()
                continue
            key = request.key(self._teacher)
            if key not in in_flight:
                in_flight.add(key)
                yield request

    def _look(self, wanted: Wanted) -> tuple[Request | None, Completion | None]:
        """Return the next request for a wanted text, or the text where none is needed."""
        first = None
        for temperature, seed in wanted.attempts:
            request, completion = self._attempt(wanted, temperature, seed)
            if completion is None:
                return request, None
            first = first or completion
            settled = len(wanted.attempts) == 1 or completion.finish_reason == TOO_LONG
            if settled or wanted.is_sound(completion):
                return None, completion
        return None, first

    def _attempt(
        self, wanted: Wanted, temperature: float, seed: int
    ) -> tuple[Request | None, Completion | None]:
        for conversation in wanted.conversations():
            request = Request(conversation, wanted.max_tokens, temperature, seed)
            key = request.key(self._teacher)
            if key not in self._too_long:
                return request, self._store.get(key)
        return None, Completion("", TOO_LONG, 0, 0)
