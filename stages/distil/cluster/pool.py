"""A backend whose requests are computed by workers on a Ray cluster.

Ray Data moves the requests in blocks, and starts and restarts the workers. Only this process, which
Ray calls the driver, writes anything.
"""

import logging
import pickle
import queue
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa

from stages.distil.cluster.connection import Capacity, connect
from stages.distil.interface.errors import UserError, one_line
from stages.distil.interface.method import Cluster

# Requests in a block at the second, third and last try; None: as at the first. The last one shows
# which request kills its worker.
NEXT_BLOCKS = (None, 32, 1)
CRASHES = 16  # blocks for each worker that may fail; one on a dead machine fails several
PATIENCE = 120  # seconds that the cluster may be without a machine for a worker
CHECK = 10  # seconds without a result after which the machines are counted
ERROR = -1  # in place of a request's number: the result is a message for the user


class Completer(Protocol):
    """What a worker holds: it yields each request with its result, in any order."""

    def complete(self, requests: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Yield each request with its result; raise `UserError` for what the user can fix."""
        ...


class Pool:
    """Copies of a backend on a Ray cluster.

    The blocks of workers that die are computed again after the others, at last in smaller blocks.
    A request that has killed four workers is set aside: the others finish, and `complete` ends with
    an error that names it.
    """

    def __init__(
        self,
        start: Callable[[], Completer],
        cluster: Cluster,
        describe: Callable[[Any], str],
        gpus: int,
    ):
        """Join the cluster, and check that the workers fit.

        `start` starts the backend in a worker; `describe` names a request for the user; `gpus` is
        the number of GPUs of a worker. Raises `UserError` if there is no such cluster, or it has no
        room.
        """
        connect(cluster)
        self._start = start
        self._describe = describe
        self._block = cluster.block
        self._capacity = Capacity(cluster, gpus)
        self._workers = self._capacity.reserve()
        _quiet()

    def complete(self, requests: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Yield each request with its result as its block finishes.

        All requests are read first, and kept as bytes. Raises `UserError` if requests kill their
        workers, if the machines are gone, or as the backend does.
        """
        remaining = [pickle.dumps(request) for request in requests]
        for size in (self._block, *NEXT_BLOCKS):
            done = set()
            for number, result in self._execute(remaining, min(size or self._block, self._block)):
                done.add(number)
                yield pickle.loads(remaining[number]), pickle.loads(result)
            remaining = [blob for number, blob in enumerate(remaining) if number not in done]
            if not remaining:
                return
            print(f"cluster: workers died with {len(remaining):,} requests", file=sys.stderr)
        names = "; ".join(self._describe(pickle.loads(blob)) for blob in remaining[:3])
        raise UserError(
            f"{len(remaining):,} of the requests killed their workers {1 + len(NEXT_BLOCKS)} times,"
            f" the others are kept: {names}; see the workers' logs (not enough memory?), then take "
            "these questions out, or run again to try them once more"
        )

    def _execute(self, blobs: Sequence[bytes], size: int) -> Iterator[tuple[int, bytes]]:
        """Yield the number and result of each request whose worker lives."""
        for batch in self._batches(blobs, size):
            numbers, values = batch["number"].to_pylist(), batch["result"].to_pylist()
            yield from ((n, v) for n, v in zip(numbers, values, strict=True) if n != ERROR)
            if ERROR in numbers:
                raise UserError(pickle.loads(values[numbers.index(ERROR)]))

    def _batches(self, blobs: Sequence[bytes], size: int) -> Iterator[pa.Table]:
        """Yield the results of the blocks, which a thread waits for while this one counts machines.

        Raises `UserError` if Ray ends the run, or no machine has had room for a worker for long.
        """
        results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        workers = max(1, min(self._workers, self._capacity.copies(), -(-len(blobs) // size)))

        def run() -> None:
            try:
                for batch in self._dataset(blobs, size, workers).iter_batches(
                    batch_size=None, batch_format="pyarrow", prefetch_batches=0
                ):
                    results.put(batch)
                results.put(None)
            except Exception as error:  # raised again in the thread that waits
                results.put(error)

        threading.Thread(target=run, daemon=True).start()
        while (batch := self._next(results)) is not None:
            if isinstance(batch, Exception):
                raise UserError(
                    f"cluster: the run ended early: {one_line(batch)[:300]}; completed requests "
                    "are kept; see the workers' logs, then run again to resume"
                ) from batch
            yield batch

    def _next(self, results: "queue.SimpleQueue[Any]") -> Any:
        """Return the next entry; raise `UserError` if no machine has room for a worker for long."""
        last_seen = time.monotonic()
        while True:
            try:
                return results.get(timeout=CHECK)
            except queue.Empty:
                if self._capacity.copies():
                    last_seen = time.monotonic()
                elif time.monotonic() - last_seen > PATIENCE:
                    raise UserError(
                        f"cluster: no machine has had room for a worker for {PATIENCE} s; start "
                        "the machines again, then run again to resume"
                    ) from None

    def _dataset(self, blobs: Sequence[bytes], size: int, workers: int) -> Any:
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.max_errored_blocks = CRASHES * workers
        # These blocks need no task to read or divide them, which would wait for a core of its own.
        blocks = [
            pa.table(
                {
                    "number": list(range(start, min(start + size, len(blobs)))),
                    "request": pa.array(blobs[start : start + size], pa.large_binary()),
                }
            )
            for start in range(0, len(blobs), size)
        ]
        with warnings.catch_warnings():
            # Ray is to find another name for `max_task_retries` by version 2.64.
            warnings.simplefilter("ignore")
            return ray.data.from_blocks(blocks).map_batches(
                _Worker,
                fn_constructor_args=(self._start,),
                batch_size=None,
                batch_format="pyarrow",
                # One block at a time, so that a dying worker takes no other block with it.
                compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
                num_cpus=self._capacity.share["CPU"],
                num_gpus=self._capacity.share.get("GPU", 0),
                # Ray would repeat a block for ever, and wait for ever for a machine that does not
                # come back. Without a second try the block is left out, and `complete` sees that.
                max_task_retries=0,
            )


class _Worker:
    """Holds the backend in a process of the cluster."""

    def __init__(self, start: Callable[[], Completer]):
        self._start = start
        self._backend: Completer | None = None

    def __call__(self, block: pa.Table) -> pa.Table:
        """Return the results of a block; row ERROR, if any, holds a message for the user."""
        requests = [pickle.loads(blob) for blob in block["request"].to_pylist()]
        numbers = {
            id(request): number
            for request, number in zip(requests, block["number"].to_pylist(), strict=True)
        }
        results: dict[int, bytes] = {}
        try:
            # Not started by the constructor: Ray would repeat for ever one that kills its process.
            if self._backend is None:
                self._backend = self._start()
            for request, result in self._backend.complete(requests):
                results[numbers[id(request)]] = pickle.dumps(result)
        except Exception as error:  # one that ends the process is Ray's to notice
            traceback.print_exc()  # into the worker's log
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            results[ERROR] = pickle.dumps(f"{kind}{one_line(error)}")
        return pa.table(
            {"number": list(results), "result": pa.array(list(results.values()), pa.large_binary())}
        )


def _quiet() -> None:
    """Keep Ray Data's messages in its log file alone."""
    import ray.data  # sets up its logger

    for handler in logging.getLogger(ray.data.__name__).handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)
