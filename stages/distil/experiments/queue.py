"""Run experiments in DVC's queue, with DVC's own commands.

`dvc exp run --queue` adds one, `dvc queue start` runs them, `dvc queue status` shows progress, and
`dvc exp list` lists the finished ones.
"""

import re
import sys
import time
from itertools import chain, repeat

import psutil
from tqdm import tqdm

from stages.distil.experiments.commands import dvc, set_params
from stages.distil.experiments.plan import Run
from stages.distil.interface.errors import UserError

POLLS = (2, 2, 4, 4, 8, 15)  # seconds between queries; a query takes a core about two seconds
SILENT = 10  # queries without an answer until the workers count as dead: busy cores delay answers
TARGET = "evaluate"  # what a run reproduces; figures need neither card nor report
WAITING, RUNNING, FAILED = "Queued", "Running", "Failed"


def finished() -> dict[str, str]:
    """Return the revision of each finished run, at any commit, by its digest."""
    listed = re.findall(r"^\t(\w+) \[(.+)\]$", dvc("exp", "list", "--all-commits"), re.MULTILINE)
    return {name.rsplit("-", 1)[-1]: revision for revision, name in listed}


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


def status() -> tuple[dict[str, str], int]:
    """Return the state of each named experiment in the queue, and the number of live workers."""
    text = dvc("queue", "status")
    rows = [line.split() for line in text.splitlines()]
    states = {row[1]: row[-1] for row in rows if len(row) > 3 and row[0] not in ("Task", "Worker")}
    workers = re.search(r"Worker status: (\d+) active, (\d+) idle", text)
    return states, sum(map(int, workers.groups())) if workers else 0


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
