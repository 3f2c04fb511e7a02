"""Running experiments through DVC's queue, by DVC's own commands.

`dvc exp run --queue` adds one, `dvc queue start` runs them, `dvc queue status` says how far they
are, and `dvc exp list` names those that have ended well.
"""

import re
import sys
import time

import psutil
from tqdm import tqdm

from stages.distil.experiments.commands import dvc
from stages.distil.experiments.plan import Run
from stages.distil.interface.errors import UserError

POLL = 15  # seconds between two looks at the queue; one takes some two seconds of a core
SILENT = 8  # looks without an answer of any worker after which there is none: busy cores delay it
TARGET = "evaluate"  # what a run reproduces; the card says nothing that a figure shows
WAITING, RUNNING, FAILED = "Queued", "Running", "Failed"


def finished() -> dict[str, str]:
    """Return the runs that have ended well, at any commit: digest to revision."""
    listed = re.findall(r"^\t(\w+) \[(.+)\]$", dvc("exp", "list", "--all-commits"), re.MULTILINE)
    return {name.rsplit("-", 1)[-1]: revision for revision, name in listed}


def execute(runs: list[Run], jobs: int) -> None:
    """Run these as queued experiments, `jobs` at once, and wait for them.

    Each gets its share of the cores. Those that wait in the queue already, from a call that was
    interrupted, are not queued again. Raises `UserError` naming those that failed.
    """
    tasks, _ = status()
    names = [run.name for run in runs]
    if failed := [name for name in names if tasks.get(name) == FAILED]:
        dvc("queue", "remove", *failed)
    for run in runs:
        if tasks.get(run.name) not in (WAITING, RUNNING):
            changes = [part for change in run.changes for part in ("--set-param", change)]
            dvc("exp", "run", "--queue", "--name", run.name, *changes, TARGET)
    try:
        _wait(names, jobs)
    except KeyboardInterrupt:
        print(
            "\nfigures: the trainings continue in the background; the same command waits for them "
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


def status() -> tuple[dict[str, str], int]:
    """Return the state of each named experiment in the queue, and how many workers answer."""
    text = dvc("queue", "status")
    rows = [line.split() for line in text.splitlines()]
    states = {row[1]: row[-1] for row in rows if len(row) > 3 and row[0] not in ("Task", "Worker")}
    workers = re.search(r"Worker status: (\d+) active, (\d+) idle", text)
    return states, sum(map(int, workers.groups())) if workers else 0


def _wait(names: list[str], jobs: int) -> None:
    """Keep DVC's workers running until none of these experiments waits or runs.

    What no worker runs any more, as after a crash, is killed, so that it counts as failed.
    """
    threads = max(1, (psutil.cpu_count(logical=False) or 1) // jobs)
    pause = 60 if not sys.stderr.isatty() else POLL
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
            time.sleep(POLL)
