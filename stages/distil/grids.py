"""Which experiments a set of figures is made of, and running those that are missing.

A run is known by what decides its answers: all parameters in force, the prompts and VERSION. So one
that two figures need runs once, and an improved line of code costs no run.
Knows DVC's queue; knows nothing of results.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from pydantic import Field, model_validator
from tqdm import tqdm

from stages.distil.errors import UserError
from stages.distil.parameters import Name, Parameters, Settings, check_settings, read_yaml

PARAMETERS = Path("params.yaml")
VERSION = 1  # raise it when a change of code changes what a run answers
MAIN = "methods"  # the figure that compares all methods: gains, headroom and cases are its
POLL = 10  # seconds between two looks at the queue; one takes a third of a second
QUIET = 60  # seconds between two lines of progress where no terminal shows it
PATIENCE = 5  # seconds that a worker has to answer
TARGET = "evaluate"  # what a run reproduces; the card says nothing that a figure shows

Value = int | float | str | list[str]


class Figure(Settings):
    """Methods over seeds, and along the values of one parameter where one is named."""

    methods: list[Name] | None = Field(None, description="null: all of them")
    seeds: list[int] = Field([0], min_length=1, description="of the training")
    parameter: str | None = Field(None, description="such as saliency.top_k")
    values: list[Value] = Field([], description="of the parameter")

    @model_validator(mode="after")
    def _has_values(self) -> "Figure":
        if (self.parameter is None) != (not self.values):
            raise ValueError("a parameter needs values, and values need their parameter")
        return self


class Grid(Settings):
    """A file of stages/figures/."""

    changes: list[str] = Field([], description="parameters of every run, as after `-S`")
    methods: dict[Name, list[str]] = Field(min_length=1, description="their own parameters")
    baseline: Name = Field(description="method that gains are counted from")
    ceiling: Name | None = Field(None, description="method that the headroom ends at")
    case: Name = Field(description="method that the case study compares with the baseline")
    jobs: int = Field(1, ge=1, description="trainings at once; each gets its share of the cores")
    figures: dict[Name, Figure] = Field(min_length=1)

    @model_validator(mode="after")
    def _methods_exist(self) -> "Grid":
        named: dict[str, list[str]] = {"baseline": [self.baseline], "case": [self.case]}
        named["ceiling"] = [self.ceiling] if self.ceiling else []
        named |= {f"figures.{name}.methods": f.methods or [] for name, f in self.figures.items()}
        for key, methods in named.items():
            for method in methods:
                if method not in self.methods:
                    known = ", ".join(self.methods)
                    raise ValueError(f"{key}: no method {method!r}; known: {known}")
        main = self.figures.get(MAIN)
        if main is None or main.methods is not None or main.parameter is not None:
            raise ValueError(f"figures.{MAIN}: needed, with all methods and without a parameter")
        return self


@dataclass(frozen=True)
class Run:
    """A training: the figure and the point it belongs to, and what it is known by.

    `value` is None where the figure has no parameter; a list of teachers counts as their number.
    """

    figure: str
    method: str
    value: float | str | None
    seed: int
    changes: tuple[str, ...]
    digest: str

    @property
    def name(self) -> str:
        """The experiment's name, for people; the digest in it is what counts."""
        parts = [self.method, *([] if self.value is None else [self.value]), self.seed, self.digest]
        return re.sub(r"[^\w-]+", "-", "-".join(map(str, parts)))


def plan(grid: Grid) -> list[Run]:
    """Return every run of every figure, in the order of the file.

    Raises `UserError` where params.yaml has no such parameter, or must not have such a value.
    """
    runs = []
    digests: dict[tuple[str, ...], str] = {}
    with tempfile.TemporaryDirectory() as folder:
        original = Path(folder) / "params.json"  # which is read much faster than YAML
        original.write_text(json.dumps(read_yaml(PARAMETERS)), encoding="utf-8")
        for title, figure in grid.figures.items():
            for method, value, seed in _points(grid, figure):
                swept = [f"{figure.parameter}={json.dumps(value)}"] if figure.parameter else []
                changes = (*grid.changes, *grid.methods[method], *swept, f"train.seed={seed}")
                if changes not in digests:
                    where = f"figure {title}, method {method}"
                    digests[changes] = identity(_changed(changes, original, where))
                short = len(value) if isinstance(value, list) else value
                runs.append(Run(title, method, short, seed, changes, digests[changes]))
    return runs


def _points(grid: Grid, figure: Figure) -> Iterator[tuple[str, Value | None, int]]:
    for seed in figure.seeds:
        values: list[Value | None] = [*figure.values] or [None]
        for value in values:
            for method in figure.methods or grid.methods:
                yield method, value, seed


def _changed(changes: Iterable[str], original: Path, where: str) -> Parameters:
    """Return the parameters in force after these changes, applied by DVC's own hand."""
    from dvc.exceptions import InvalidArgumentError
    from dvc.utils.hydra import apply_overrides

    where = f"{where}: {' '.join(changes)}"
    file = original.with_name("changed.json")
    shutil.copy(original, file)
    try:
        apply_overrides(file, list(changes))
    except InvalidArgumentError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(f"{where}: {reason}") from None
    return check_settings(json.loads(file.read_bytes()), Parameters, where)


def identity(parameters: Parameters) -> str:
    """Return a digest of what decides a run's result: parameters in force, prompts, VERSION."""
    values: dict[str, Any] = {"version": VERSION}
    used = {*parameters.teachers, parameters.saliency.teacher, parameters.student.model}
    values |= parameters.model_dump(mode="json", exclude={"models", "datasets"})
    values["train"]["seed"] = parameters.training_seed
    values["models"] = {name: parameters.models[name].model_dump(mode="json") for name in used}
    values["data set"] = parameters.data_set.model_dump(mode="json")
    found = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    prompts = parameters.rationales.prompts.model_dump().values()
    for file in sorted(prompts):
        found.update(f"\0{file}\0".encode())
        found.update(file.read_bytes())
    return found.hexdigest()[:10]


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
