"""A teacher with a store: missing texts are generated, and all texts are read from the store.

The tasks are iterated over as often as needed, so only the store holds the texts, and memory use
does not depend on their number.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Self

from tqdm import tqdm

from stages.distil.interface.errors import UserError
from stages.distil.language.appearance import as_text
from stages.distil.language.quality import TOO_LONG
from stages.distil.language.teacher_prompts import Conversation
from stages.distil.storage.store import Store
from stages.distil.teachers.backend import Backend, Completion, Request

GENERATIONS = Path(".cache/generations/generations.sqlite")  # `make clean` keeps it
COLUMNS = {
    "text": "TEXT",  # or a score, as its digits
    "finish_reason": "TEXT",
    "prompt_tokens": "INTEGER",
    "output_tokens": "INTEGER",
}
ASKED_AGAIN = {"times": "INTEGER"}
MOST_ASKED = 3  # times in all, each in a run of its own, that a server is asked for a whole reply


class Generations(Store):
    """Completions under a key of everything that determines them; a context manager."""

    def __init__(self, path: Path = GENERATIONS):
        super().__init__(path, "generations", COLUMNS)
        self._lacking = Store(path, "replies_lacking", ASKED_AGAIN)

    def __enter__(self) -> Self:
        super().__enter__()
        self._lacking.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self._lacking.__exit__(*details)
        super().__exit__(*details)

    def get(self, key: bytes, scored: bool = False) -> Completion | None:
        """Return the completion of a key, or None; what is stored but is none is removed.

        Its text is as `as_text` leaves it. With `scored`, it is that of a request with a reply.
        """
        row = self.select(key)
        if row is None:
            return None
        try:
            completion = Completion(*row)
            if scored:
                return replace(completion, text="", score=float(completion.text))
        except ValueError:  # earlier versions stored what servers replied
            self.delete(key)
            return None
        return replace(completion, text=as_text(completion.text))

    def put(self, key: bytes, completion: Completion) -> None:
        """Store a completion, its text by `as_text`; a whole reply that is stored already is kept.

        A completion that lacks its reply is counted (`times_lacking`). Raises `UserError` if the
        store does not return the completion afterwards.
        """
        if completion.lacks_reply:
            self._lacking.replace(key, [self.times_lacking(key) + 1])
        scored = completion.score is not None
        stored = self.get(key, scored)
        text = str(completion.score) if scored else as_text(completion.text)
        row = [(vars(completion) | {"text": text})[name] for name in COLUMNS]
        if stored is None:
            self.insert(key, row)
        elif stored.lacks_reply:
            self.replace(key, row)
        if self.get(key, scored) is None:
            raise UserError(f"{self._path}: does not keep what is written; move the file away")

    def times_lacking(self, key: bytes) -> int:
        """Return how often a completion that lacks its reply was put."""
        row = self._lacking.select(key)
        return row[0] if row else 0


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
class KeyedRequest:
    """A request and the key of its completion."""

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

        `render` returns a conversation as the teacher reads it; None if only its server knows. A
        server is asked again, MOST_ASKED times in all, for a reply that it failed to give in an
        earlier run: the reason may have passed. A model on this machine would write the same.
        """
        self._teacher = teacher
        self._render = render
        self._is_server = render is None
        self._start = start
        self._store = store
        self._backend: Backend | None = None
        self._too_long: set[bytes] = set()
        self._lacking: set[bytes] = set()  # asked for in this run

    @property
    def lacking(self) -> int:
        """How many replies the server failed to give in this run, and is asked for in another."""
        return sum(self._store.times_lacking(key) < MOST_ASKED for key in self._lacking)

    def write(
        self, tasks: Callable[[], Iterable[WritingTask]], total: int, label: str
    ) -> tuple[int, float]:
        """Generate every missing text; `tasks` is iterated over again until none is missing.

        No request is made twice in a run: afterwards its completion is stored, or its prompt is
        known as too long. Raises `UserError` if the backend or the store fails to do its part.

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
                        if self._is_server and completion.lacks_reply:
                            self._lacking.add(key)
                    progress.update()
                    count += 1
                if in_flight:
                    raise UserError(
                        f"{label}: {len(in_flight)} requests were not completed; run again to "
                        "resume"
                    )
                seconds += time.monotonic() - start
            first_time = False

    def read(self, task: WritingTask) -> Completion:
        """Return the text of a task after `write`; `too_long` if no conversation fits."""
        found = self._read_stored(task)
        if isinstance(found, KeyedRequest):
            raise LookupError(f"nothing was written for {found.request}")
        return found

    def _missing_requests(
        self, tasks: Iterable[WritingTask], in_flight: dict[Request, bytes], progress: "tqdm | None"
    ) -> Iterator[Request]:
        for task in tasks:
            found = self._read_stored(task)
            if not isinstance(found, KeyedRequest):
                if progress is not None:
                    self._store.hits += 1
                    progress.update()
            elif found.request not in in_flight:
                in_flight[found.request] = found.key
                yield found.request

    def _read_stored(self, task: WritingTask) -> "Completion | KeyedRequest":
        """Return the stored text of a task, or the next request to make for it."""
        first: Completion | None = None
        again: KeyedRequest | None = None
        for temperature, seed in task.attempts:
            fitting = self._fitting_request(task, temperature, seed)
            if fitting is None:
                return Completion("", TOO_LONG, 0, 0)
            stored = self._store.get(fitting.key, scored=task.reply is not None)
            if stored is None:
                return fitting
            if len(task.attempts) > 1 and task.is_sound(stored):
                return stored
            first = first or stored
            if again is None and self._is_asked_again(fitting.key, stored):
                again = fitting
        assert first is not None  # a task has an attempt
        return again or first

    def _fitting_request(
        self, task: WritingTask, temperature: float, seed: int
    ) -> "KeyedRequest | None":
        """Return the request with as many examples as fit, None if the prompt never does."""
        for conversation in task.conversations():
            request = Request(conversation, task.max_tokens, temperature, seed, task.reply)
            key = request.key(self._teacher, self._render)
            if key not in self._too_long:
                return KeyedRequest(request, key)
        return None

    def _is_asked_again(self, key: bytes, stored: Completion) -> bool:
        """Return whether a server is asked again for a reply that it failed to give earlier."""
        return (
            self._is_server
            and stored.lacks_reply
            and key not in self._lacking
            and self._store.times_lacking(key) < MOST_ASKED
        )
