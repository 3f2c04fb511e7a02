"""Which experiments a set of figures is made of.

A run is known by what decides its answers: all parameters in force, the prompts and the versions of
the algorithms. So one that two figures need runs once, and an improved line of code costs no run.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from stages.distil.interface.errors import UserError
from stages.distil.interface.parameters import Parameters
from stages.distil.interface.settings import Name, Settings, check_settings, read_yaml
from stages.distil.storage import versions

PARAMETERS = Path("params.yaml")
MAIN = "methods"  # the figure that compares all methods: gains, headroom and cases are its

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
    """Return a digest of what decides a run's result: parameters in force, prompts, versions.

    A parameter at its default does not count, so that a new one leaves the kept runs valid.
    """
    values: dict[str, Any] = {"versions": {k: v for k, v in vars(versions).items() if k.isupper()}}
    used = {*parameters.teachers, parameters.saliency.teacher, parameters.student.model}
    values |= parameters.model_dump(
        mode="json", exclude={"models", "datasets"}, exclude_defaults=True
    )
    values["train"]["seed"] = parameters.training_seed
    values["models"] = {
        name: parameters.models[name].model_dump(mode="json", exclude_defaults=True)
        for name in used
    }
    values["data set"] = parameters.data_set.model_dump(mode="json", exclude_defaults=True)
    found = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    prompts = parameters.rationales.prompts.model_dump().values()
    for file in sorted(prompts):
        found.update(f"\0{file}\0".encode())
        found.update(file.read_bytes())
    return found.hexdigest()[:10]
