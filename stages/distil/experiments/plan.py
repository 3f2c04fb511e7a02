"""Plan the experiments of a set of figures.

A digest of the parameters, the prompts and the versions of the algorithms identifies a run. So a
run of two figures is run once, and a change of code that keeps its results repeats no run.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from stages.distil.experiments.recipe import apply_changes, flat
from stages.distil.interface.catalogue import determining_fields
from stages.distil.interface.errors import UserError
from stages.distil.interface.parameters import Parameters
from stages.distil.interface.paths import PARAMETERS
from stages.distil.interface.settings import Name, Settings, check_settings, read_yaml
from stages.distil.questions.reading import data_set_content
from stages.distil.storage import versions
from stages.distil.weights.folders import model_content

DATA = "data set"  # no model can have this name
MAIN = "methods"  # the figure that compares all methods; metrics.json and cases.md are about it

Value = int | float | str | list[str]


def label(value: Value | None) -> float | str | None:
    """Return a parameter's value as a figure shows it: a list by its length."""
    return len(value) if isinstance(value, list) else value


class Figure(Settings):
    """Methods over seeds, and over the values of a parameter if one is named."""

    methods: list[Name] | None = Field(None, description="null: all of them")
    seeds: list[int] = Field([0], min_length=1, description="of the training")
    parameter: str | None = Field(None, description="such as saliency.top_k")
    values: list[Value] = Field([], description="of the parameter")

    @model_validator(mode="after")
    def _has_values(self) -> "Figure":
        if (self.parameter is None) != (not self.values):
            raise ValueError("`parameter` and `values` must be set together")
        labels = [label(value) for value in self.values]
        if len(set(labels)) < len(labels):
            raise ValueError("two `values` are shown as the same number; a list is by its length")
        return self


class Grid(Settings):
    """A file in stages/figures/."""

    changes: list[str] = Field([], description="parameters of every run, as after `-S`")
    methods: dict[Name, list[str]] = Field(min_length=1, description="parameters of each method")
    baseline: Name = Field(description="method that gains are relative to")
    ceiling: Name | None = Field(None, description="method whose headroom is 100 %")
    main_comparison: Name | None = Field(
        None,
        description="method whose gain, in figures without `parameter`, has a p-value that is not "
        "corrected for the number of methods; name it before it has run",
    )
    case: Name = Field(description="method that the case study compares with the baseline")
    controls: dict[Name, Name] = Field(
        {}, description="control: the method from which it differs in one parameter alone"
    )
    jobs: int = Field(1, ge=1, description="trainings at once; they share the cores equally")
    figures: dict[Name, Figure] = Field(min_length=1)

    @model_validator(mode="after")
    def _methods_exist(self) -> "Grid":
        named: dict[str, list[str]] = {"baseline": [self.baseline], "case": [self.case]}
        named["ceiling"] = [self.ceiling] if self.ceiling else []
        named["main_comparison"] = [self.main_comparison] if self.main_comparison else []
        named["controls"] = [*self.controls, *self.controls.values()]
        named |= {f"figures.{name}.methods": f.methods or [] for name, f in self.figures.items()}
        for key, methods in named.items():
            for method in methods:
                if method not in self.methods:
                    names = ", ".join(self.methods)
                    raise ValueError(f"{key}: unknown method {method!r}; known: {names}")
        if self.main_comparison == self.baseline:
            raise ValueError(
                f"main_comparison: expected another method than the baseline {self.baseline!r}"
            )
        main = self.figures.get(MAIN)
        if main is None or main.methods is not None or main.parameter is not None:
            raise ValueError(f"figures.{MAIN}: required, without `methods` and `parameter`")
        return self


@dataclass(frozen=True)
class Run:
    """A training for one point of a figure; `digest` identifies it, `data` names its data set.

    `value` is None if the figure has no parameter; a list of teachers becomes their number.
    """

    figure: str
    method: str
    value: float | str | None
    seed: int
    changes: tuple[str, ...]
    digest: str
    data: str

    @property
    def name(self) -> str:
        """The name of the experiment; it ends with the digest."""
        parts = [self.method, *([] if self.value is None else [self.value]), self.seed, self.digest]
        return re.sub(r"[^\w-]+", "-", "-".join(map(str, parts)))


def plan(grid: Grid) -> list[Run]:
    """Return every run of every figure, in the order of the file.

    Raises `UserError` if params.yaml has no such parameter or does not allow its value, or if a
    control differs from its method in more than one parameter.
    """
    runs = []
    digests: dict[tuple[str, ...], tuple[str, str]] = {}  # and the names of the data sets
    with tempfile.TemporaryDirectory() as folder:
        original = Path(folder) / "params.json"  # JSON is read much faster than YAML
        original.write_text(json.dumps(read_yaml(PARAMETERS)), encoding="utf-8")
        for control, method in grid.controls.items():
            _check_control(grid, control, method, original)
        for title, figure in grid.figures.items():
            for method, value, seed in _points(grid, figure):
                swept = [f"{figure.parameter}={json.dumps(value)}"] if figure.parameter else []
                changes = (*grid.changes, *grid.methods[method], *swept, f"train.seed={seed}")
                if changes not in digests:
                    where = f"figure {title}, method {method}"
                    parameters = _apply_changes(changes, original, where)
                    digests[changes] = run_digest(parameters), parameters.data.name
                runs.append(Run(title, method, label(value), seed, changes, *digests[changes]))
    return runs


def _check_control(grid: Grid, control: str, method: str, original: Path) -> None:
    """Raise `UserError` unless a control differs from its method in exactly one parameter."""

    def parameters_of(name: str) -> dict[str, Any]:
        changes = (*grid.changes, *grid.methods[name])
        applied = _apply_changes(changes, original, f"method {name}")
        return dict(flat(applied.model_dump(mode="json")))

    ours, theirs = parameters_of(control), parameters_of(method)
    different = sorted(k for k in ours | theirs if ours.get(k) != theirs.get(k))
    if len(different) != 1:
        raise UserError(
            f"controls.{control}: expected one parameter in which it differs from {method!r}, "
            f"found {', '.join(different) or 'none'}; change its parameters in `methods`"
        )


def _points(grid: Grid, figure: Figure) -> Iterator[tuple[str, Value | None, int]]:
    for seed in figure.seeds:
        values: list[Value | None] = [*figure.values] or [None]
        for value in values:
            for method in figure.methods or grid.methods:
                yield method, value, seed


def _apply_changes(changes: Iterable[str], original: Path, where: str) -> Parameters:
    """Return the parameters after these changes, as DVC applies them."""
    where = f"{where}: {' '.join(changes)}"
    file = original.with_name("changed.json")
    shutil.copy(original, file)
    apply_changes(file, changes, where)
    return check_settings(json.loads(file.read_bytes()), Parameters, where)


def run_digest(parameters: Parameters) -> str:
    """Return a digest of everything that determines a run's result: parameters, prompts, versions.

    Parameters at their defaults are left out, so that stored runs stay valid when one is added.
    """
    values: dict[str, Any] = {"versions": {k: v for k, v in vars(versions).items() if k.isupper()}}
    values |= parameters.model_dump(
        mode="json", exclude={"cluster", "models", "datasets"}, exclude_defaults=True
    )
    values["train"]["seed"] = parameters.training_seed
    files = _files(parameters)
    values["models"] = {n: determining_fields(parameters.models[n]) for n in parameters.used_models}
    values[DATA] = parameters.data_set.model_dump(mode="json", exclude_defaults=True)
    for name in files:  # a folder is known by its content, wherever it lies
        if name == DATA:
            values[DATA].pop("folder")
        else:
            values["models"][name].pop("path")
    if files:
        values["files"] = files
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    prompts = parameters.rationales.prompts.model_dump().values()
    for file in sorted(prompts):
        digest.update(f"\0{file}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:10]


def _files(parameters: Parameters) -> dict[str, dict[str, str]]:
    """Return the content of the local files that a run reads, if there are any.

    A folder that is missing has none: `sources` refuses it, should the run be executed.
    """
    found = {}
    with suppress(UserError):
        found[DATA] = data_set_content(parameters.data_set)
    for name in sorted(parameters.used_models):
        with suppress(UserError):
            found[name] = model_content(parameters.models[name])
    return {name: files for name, files in found.items() if files}
