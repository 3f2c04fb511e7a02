"""Running experiments through DVC's queue."""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from stages.distil.experiments.plan import Run
from stages.distil.interface.errors import UserError

POLL = 10  # seconds between two looks at the queue; one takes a third of a second
QUIET = 60  # seconds between two lines of progress where no terminal shows it
PATIENCE = 5  # seconds that a worker has to answer
TARGET = "evaluate"  # what a run reproduces; the card says nothing that a figure shows


def finished() -> dict[str, str]:
    """Return the runs that have ended well, at any commit: digest to revision."""
    from dvc.repo import Repo

    with Repo() as repo:
        listed = repo.experiments.ls(all_commits=True).values()
    return {name.rsplit("-", 1)[-1]: revision for entries in listed for name, revision in entries}


def execute(runs: list[Run], jobs: int) -> None:
    """Run these as queued experiments, `jobs` at once, and wait for them.

    Each gets its share of the cores, unless the environment says how many threads they have. Those
    that wait in the queue already, from a call that was interrupted, are not queued again.
    Raises `UserError` naming those that failed.
    """
    from dvc.repo import Repo

    # DVC's workers call `dvc` by its name.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    cores = psutil.cpu_count(logical=False) or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // jobs)))
    with Repo() as repo:
        queue = repo.experiments.celery_queue
        names = {run.name for run in runs}
        _forget_dead(queue)
        if failed := names.intersection(result.entry.name for result in queue.iter_failed()):
            queue.remove(failed)
        waiting, running = _waiting(queue)
        for run in runs:
            if run.name not in {*waiting, *running}:
                sets = list(run.changes)
                repo.experiments.run(queue=True, name=run.name, targets=[TARGET], params=sets)
        try:
            _wait(queue, names, jobs)
        except KeyboardInterrupt:
            print(
                "\nfigures: the trainings go on in the background; the same command waits for them "
                "again, `dvc queue stop --kill` ends them",
                file=sys.stderr,
            )
            raise
    done = finished()
    left = [run.name for run in runs if run.digest not in done]
    if left:
        raise UserError(
            f"{len(left)} of {len(runs)} trainings have not ended well: {', '.join(left)}; "
            f"`dvc queue logs {left[0]}` says why, and the same command runs these again"
        )


def _waiting(queue: Any) -> tuple[list[str], list[str]]:
    """Return the names of the experiments that wait in DVC's queue, and of those that run."""
    queued = [entry.name for entry in queue.iter_queued()]  # first: one that starts now is seen
    return queued, [entry.name for entry in queue.iter_active()]


def _has_worker(queue: Any) -> bool:
    """Return whether one of DVC's workers answers, in time for one that has busy cores."""
    return bool(queue.celery.control.inspect(timeout=PATIENCE).active())


def _forget_dead(queue: Any) -> None:
    """Let experiments count as failed that were killed, or lost with the machine.

    No process runs them, and there is no worker that still collects what they left.
    """
    from dvc.repo.experiments.exceptions import UnresolvedRunningExpNamesError

    ended = []
    for entry in queue.iter_active():
        process = queue.proc.get(entry.stash_rev)
        running = process and process.returncode is None and psutil.pid_exists(process.pid)
        if not running:
            ended.append(entry.name)
    if ended and not _has_worker(queue):
        with suppress(UnresolvedRunningExpNamesError):  # it was collected meanwhile
            queue.kill(ended)


def _wait(queue: Any, names: set[str], jobs: int) -> None:
    """Keep DVC's workers going until none of these experiments waits or runs."""
    pause = POLL if sys.stderr.isatty() else QUIET
    with tqdm(
        total=len(names), desc="figures", unit="training", mininterval=pause, miniters=0
    ) as bar:
        while True:
            waiting, running = _waiting(queue)
            left = names.intersection([*waiting, *running])
            bar.set_postfix_str(", ".join(running), refresh=False)
            bar.update(len(names) - len(left) - bar.n)
            if not left:
                return
            if waiting and not running and not _has_worker(queue):
                queue.start_workers(jobs)  # one that had nothing to do has ended
            _forget_dead(queue)
            time.sleep(POLL)
