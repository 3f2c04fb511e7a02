"""A teacher behind an OpenAI-compatible server, such as `vllm serve`, or behind several.

It hands the requests out; what one server does with a request is the client's business.
"""

import asyncio
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from stages.distil.interface.catalogue import ServerModel
from stages.distil.interface.errors import UserError
from stages.distil.teachers.backend import Completion, Request
from stages.distil.teachers.openai_client import Client, UnavailableError
from stages.distil.teachers.openai_transport import FailedError
from stages.distil.teachers.secret import Secret

FAILED_IN_A_ROW = 16  # consecutive failed requests after which the server is considered down


@dataclass(eq=False)
class _Connection:
    """One of a teacher's servers, and how it does."""

    client: Client
    running: int = 0
    failed_in_a_row: int = 0


@dataclass(frozen=True)
class _Job:
    """A request, and the servers on which it has failed."""

    request: Request
    failed_on: frozenset[str] = frozenset()

    def choose(self, connections: list[_Connection]) -> list[_Connection]:
        """Return the servers that may still try the request, the least busy one first."""
        possible = [c for c in connections if c.client.url not in self.failed_on]
        return sorted(possible, key=lambda connection: connection.running)


class Server:
    """Send requests to one or several servers, a bounded number to each concurrently.

    A request that keeps failing is handed to another server. If it has failed on all, it is skipped
    and the others continue; `complete` then ends with an error that counts the failures. A server
    with FAILED_IN_A_ROW failures gets no more requests; without another server, that ends the run.
    After a permanent refusal no more requests are sent, and those in flight end first. The key is
    read from the environment and never shown.
    """

    def __init__(self, name: str, source: ServerModel):
        """Take the teacher's name and its entry; raise `UserError` if the key is no key."""
        self._name = name
        self._source = source
        self._urls = [source.url] if isinstance(source.url, str) else source.url
        self._secret = Secret(source.key)

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Yield each request with its completion as it finishes."""
        with asyncio.Runner() as runner:  # its exit cancels requests in flight
            clients = [Client(self._name, self._source, url, self._secret) for url in self._urls]
            hand_out = _HandOut(self._name, self._source, clients, requests)
            while running := hand_out.start(runner.get_loop()):
                first = asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                runner.run(first)
                yield from hand_out.take_ended()
            for client in clients:
                runner.run(client.close())
        hand_out.raise_failure()


class _HandOut:
    """The requests of one call of `complete`: waiting, in flight on a server, or failed."""

    def __init__(
        self, name: str, source: ServerModel, clients: list[Client], requests: Iterable[Request]
    ):
        self._name = name
        self._source = source
        self._urls = [client.url for client in clients]
        self._connections = [_Connection(client) for client in clients]
        self._remaining = map(_Job, requests)
        self._waiting: deque[_Job] = deque()  # failed on a server
        self._running: dict[asyncio.Task[Completion], tuple[_Job, _Connection]] = {}  # oldest first
        self._completed = self._failed = 0
        self._last_failure = ""
        self._refusal: UserError | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[Completion]]:
        """Send requests to all servers that may get more; return all that are in flight."""
        while self._refusal is None and (chosen := self._choose()):
            job, connection = chosen
            task = loop.create_task(connection.client.complete(job.request))
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._running[task] = chosen
            connection.running += 1
        return list(self._running)

    def _choose(self) -> tuple[_Job, _Connection] | None:
        """Return the next request and the least busy server for it, None if it has to wait."""
        most = self._source.in_flight
        while any(connection.running < most for connection in self._connections):
            job = self._waiting.popleft() if self._waiting else next(self._remaining, None)
            if job is None:
                return None
            possible = job.choose(self._connections)
            if not possible:
                self._failed += 1
            elif possible[0].running < most:
                return job, possible[0]
            else:
                self._waiting.appendleft(job)
                return None
        return None

    def take_ended(self) -> Iterator[tuple[Request, Completion]]:
        """Yield the completions of the requests that ended; put aside those that failed.

        Raises `UserError` if no server is left.
        """
        ended = [task for task in self._running if task.done()]
        for task in sorted(ended, key=lambda task: task.exception() is not None):
            job, connection = self._running.pop(task)
            connection.running -= 1
            try:
                completion = task.result()
            except UserError as error:
                self._refusal = self._refusal or error
            except FailedError as error:
                self._note_failure(job, connection, error)
            else:
                self._completed += 1
                connection.failed_in_a_row = 0
                yield job.request, completion

    def _note_failure(self, job: _Job, connection: _Connection, error: FailedError) -> None:
        """Let other servers try a request; give up a server that is down."""
        self._last_failure = str(error)
        connection.failed_in_a_row += 1
        self._waiting.append(_Job(job.request, job.failed_on | {connection.client.url}))
        is_unavailable = isinstance(error, UnavailableError)
        is_down = is_unavailable or connection.failed_in_a_row >= FAILED_IN_A_ROW
        # Requests that were in flight when a server was given up may still end, well or not.
        if not is_down or connection not in self._connections:
            return
        self._connections.remove(connection)
        if self._connections:
            print(
                f"{self._name}: {connection.client.url} gets no more requests, "
                f"{connection.failed_in_a_row} failed in a row: {error}",
                file=sys.stderr,
            )
        elif is_unavailable:
            kept = f"{self._completed} completions are kept"
            raise UserError(f"models.{self._name}: {error}; {kept}") from None
        else:
            self._failed += len(self._waiting)
            raise self._failure_error() from None

    def raise_failure(self) -> None:
        """Raise `UserError` if the server refused what it was asked, or if requests failed."""
        if self._refusal:
            raise self._refusal
        if self._failed:
            raise self._failure_error()

    def _failure_error(self) -> UserError:
        count = f"{self._failed} request{'s' * (self._failed > 1)}"
        tries = f"{self._source.tries} {'tries' if self._source.tries > 1 else 'try'} each"
        return UserError(
            f"models.{self._name}: {count} to {' and '.join(self._urls)} failed after {tries}, "
            f"{self._completed} were completed and are kept; the last failure: "
            f"{self._last_failure}; run again to resume"
        )
