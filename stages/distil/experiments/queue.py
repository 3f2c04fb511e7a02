"""Run DVC's commands, and experiments in DVC's queue.

`dvc exp run --queue` adds an experiment and `dvc queue start` runs them. Which wait, run, failed or
have finished is read with the calls of DVC's Python library that its own commands make: they return
values, where `dvc queue status` and `dvc exp list` print tables for people.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from stages.distil.experiments.plan import Run
from stages.distil.interface.errors import UserError

POLLS = (2, 2, 4, 4, 8, 15)  # seconds between queries; the workers take one second to answer
SILENT = 10  # queries without an answer until the workers count as dead: busy cores delay answers
TARGET = "evaluate"  # what a run reproduces; figures need neither card nor report
WAITING, RUNNING, FAILED = "Queued", "Running", "Failed"


def dvc(*arguments: str, threads: int | None = None, show: bool = False) -> str:
    """Run a DVC command; return its output, or print it with `show`.

    `threads` is the number of threads of each training, unless OMP_NUM_THREADS is set. Raises
    `UserError` if the command fails.
    """
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, env=_environment(threads), capture_output=not show, text=True)
    if done.returncode:
        lines = [line for line in (done.stderr or "").splitlines() if line.startswith("ERROR: ")]
        reason = lines[0].removeprefix("ERROR: ") if lines else "see its output above"
        raise UserError(f"`dvc {' '.join(arguments[:2])}` failed: {_with_advice(reason)}")
    return done.stdout or ""


def set_params(changes: Iterable[str]) -> list[str]:
    """Return the arguments of `dvc exp run` that set these parameters."""
    return [argument for change in changes for argument in ("--set-param", change)]


def finished() -> dict[str, str]:
    """Return the revision of each finished run, at any commit, by its digest."""
    with _experiments() as experiments:
        by_commit = experiments.ls(all_commits=True)
    ended = chain.from_iterable(by_commit.values())
    return {name.rsplit("-", 1)[-1]: revision for name, revision in ended}


def status() -> tuple[dict[str, str], int]:
    """Return the state of each named experiment in the queue, and the number of live workers."""
    with _experiments() as experiments:
        queue = experiments.celery_queue
        tasks, workers = queue.status(), queue.worker_status()
    return {task["name"]: task["status"] for task in tasks if task["name"]}, len(workers)


def execute(runs: list[Run], jobs: int) -> None:
    """Run these as queued experiments, `jobs` at once, and wait for them.

    The jobs share the cores equally. Runs that are still queued from an interrupted call are not
    queued again. Raises `UserError` that names the runs that failed.
    """
    tasks, _ = status()
    names = [run.name for run in runs]
    if failed := [name for name in names if tasks.get(name) == FAILED]:
        dvc("queue", "remove", *failed)
    for run in runs:
        if tasks.get(run.name) not in (WAITING, RUNNING):
            dvc("exp", "run", "--queue", "--name", run.name, *set_params(run.changes), TARGET)
    try:
        _wait(names, jobs)
    except KeyboardInterrupt:
        print(
            "\nfigures: the trainings continue in the background; run the same command to wait for "
            "them, or `dvc queue stop --kill` to end them",
            file=sys.stderr,
        )
        raise
    revisions = finished()
    failed = [run.name for run in runs if run.digest not in revisions]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(runs)} trainings failed: {', '.join(failed)}; see "
            f"`dvc queue logs {failed[0]}`, then run the same command to repeat them"
        )


def _wait(names: list[str], jobs: int) -> None:
    """Keep DVC's workers running until all of these experiments have ended.

    An experiment whose worker is gone, for instance after a crash, is killed and so counts as
    failed.
    """
    threads = max(1, (psutil.cpu_count(logical=False) or 1) // jobs)
    pause = 60 if not sys.stderr.isatty() else POLLS[-1]
    waits = chain(POLLS, repeat(POLLS[-1]))
    silent = 0
    with tqdm(
        total=len(names), desc="figures", unit="training", mininterval=pause, miniters=0
    ) as bar:
        while True:
            tasks, workers = status()
            waiting = [name for name in names if tasks.get(name) == WAITING]
            running = [name for name in names if tasks.get(name) == RUNNING]
            bar.set_postfix_str(", ".join(running), refresh=False)
            bar.update(len(names) - len(waiting) - len(running) - bar.n)
            if not waiting and not running:
                return
            silent = 0 if workers else silent + 1
            if running and silent > SILENT:
                dvc("queue", "kill", *running)
            elif waiting and not workers and not running:
                dvc("queue", "start", "--jobs", str(jobs), threads=threads)
            time.sleep(next(waits))


@contextmanager
def _experiments() -> Iterator[Any]:
    """Open the experiments of this project; DVC's errors become `UserError`."""
    from dvc.exceptions import DvcException  # DVC takes a second to import
    from dvc.repo import Repo
    from scmrepo.exceptions import SCMError

    try:
        with Repo() as repo:
            yield repo.experiments
    except (DvcException, SCMError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"DVC's experiments cannot be read: {_with_advice(reason)}") from error


def _with_advice(reason: str) -> str:
    """Return the reason why DVC failed, with what to do if that is git's view of the folder."""
    if "not owned by current user" in reason or "not a git repository" in reason:
        return f'{reason}; see docs/installation.md, "Without a repository" (git\'s safe.directory)'
    return reason


def _environment(threads: int | None) -> dict[str, str]:
    defaults = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    if subprocess.run(["git", "config", "user.email"], capture_output=True).returncode:
        # DVC commits each experiment, which fails if git has no name to use.
        for role in ("AUTHOR", "COMMITTER"):
            defaults |= {
                f"GIT_{role}_NAME": "experiments",
                f"GIT_{role}_EMAIL": "experiments@localhost",
            }
    # DVC's workers look up `dvc` on the PATH.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return defaults | os.environ | {"PATH": path}
