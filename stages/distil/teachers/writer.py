"""A teacher with a store: missing texts are generated, and all texts are read from the store.

The tasks are iterated over as often as needed, so only the store holds the texts, and memory use
does not depend on their number.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from stages.distil.language.appearance import as_text
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
    """Completions under a key of everything that determines them; a context manager."""

    def __init__(self, path: Path = GENERATIONS):
        super().__init__(path, "generations", COLUMNS)

    def get(self, key: bytes) -> Completion | None:
        """Return the completion of a key, or None; its text as `as_text` leaves it."""
        row = self.select(key)
        return Completion(as_text(row[0]), *row[1:]) if row else None

    def put(self, key: bytes, completion: Completion) -> None:
        """Store a completion, its text by `as_text`; if another process was first, keep its own."""
        values = vars(completion) | {"text": as_text(completion.text)}
        self.insert(key, [values[name] for name in COLUMNS])


@dataclass(frozen=True)
class WritingTask:
    """A text for a teacher to write.

    `conversations` yields the same question with fewer and fewer in-context examples; the first one
    that fits the teacher's context is used. `attempts` are pairs of temperature and seed, tried in
    turn until `is_sound`; if no attempt is, the first text counts. A `reply` is scored instead of
    written (`Request`).
    """

    conversations: Callable[[], Iterator[Conversation]]
    max_tokens: int
    attempts: tuple[tuple[float, int], ...] = ((0.0, 0),)
    is_sound: Callable[[Completion], bool] = lambda completion: True
    reply: str | None = None


@dataclass(frozen=True)
class Missing:
    """A request whose text is not stored, and its key."""

    request: Request
    key: bytes


class CachedWriter:
    """A teacher whose texts are stored; its backend starts only if a text is missing."""

    def __init__(
        self,
        teacher: str,
        start: Callable[[], Backend],
        store: Generations,
        render: Callable[..., str] | None = None,
    ):
        """Take the teacher's `identity`, a function that starts its backend, and the store.

        `render` returns a conversation as the teacher reads it; None if only its server knows.
        """
        self._teacher = teacher
        self._render = render
        self._start = start
        self._store = store
        self._backend: Backend | None = None
        self._too_long: set[bytes] = set()

    def write(
        self, tasks: Callable[[], Iterable[WritingTask]], total: int, label: str
    ) -> tuple[int, float]:
        """Generate every missing text; `tasks` is iterated over again until none is missing.

        Returns the number of completions and the seconds they took, without the backend's start.
        """
        first_time = True
        count, seconds = 0, 0.0
        while True:
            with tqdm(
                total=total if first_time else None,
                desc=label if first_time else f"{label}, again",
                delay=0 if first_time else 5,  # usually nothing is left
                unit="text",
                file=sys.stderr,
            ) as progress:
                in_flight: dict[Request, bytes] = {}  # with their keys
                requests = self._missing_requests(
                    tasks(), in_flight, progress if first_time else None
                )
                first = next(requests, None)
                if first is None:
                    return count, seconds
                if self._backend is None:
                    self._backend = self._start()
                start = time.monotonic()
                for request, completion in self._backend.complete(chain([first], requests)):
                    key = in_flight.pop(request)
                    if completion.finish_reason == TOO_LONG:
                        self._too_long.add(key)
                    else:
                        self._store.put(key, completion)
                    progress.update()
                    count += 1
                seconds += time.monotonic() - start
            first_time = False

    def read(self, task: WritingTask) -> Completion:
        """Return the text of a task after `write`; `too_long` if no conversation fits."""
        found = self._read_stored(task)
        if isinstance(found, Missing):
            raise LookupError(f"nothing was written for {found.request}")
        return found

    def _missing_requests(
        self, tasks: Iterable[WritingTask], in_flight: dict[Request, bytes], progress: "tqdm | None"
    ) -> Iterator[Request]:
        for task in tasks:
            found = self._read_stored(task)
            if not isinstance(found, Missing):
                if progress is not None:
                    self._store.hits += 1
                    progress.update()
            elif found.request not in in_flight:
                in_flight[found.request] = found.key
                yield found.request

    def _read_stored(self, task: WritingTask) -> "Completion | Missing":
        """Return the stored text of a task, or the next request that is missing for it."""
        first = None
        for temperature, seed in task.attempts:
            found = self._read_attempt(task, temperature, seed)
            if isinstance(found, Missing):
                return found
            first = first or found
            is_final = len(task.attempts) == 1 or found.finish_reason == TOO_LONG
            if is_final or task.is_sound(found):
                return found
        assert first is not None  # a task has an attempt
        return first

    def _read_attempt(
        self, task: WritingTask, temperature: float, seed: int
    ) -> "Completion | Missing":
        for conversation in task.conversations():
            request = Request(conversation, task.max_tokens, temperature, seed, task.reply)
            key = request.key(self._teacher, self._render)
            if key not in self._too_long:
                return self._store.get(key) or Missing(request, key)
        return Completion("", TOO_LONG, 0, 0)
