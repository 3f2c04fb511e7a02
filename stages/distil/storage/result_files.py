"""Read the small files with results, metrics and curves, which may be damaged or edited."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from stages.distil.interface.errors import UserError, one_line
from stages.distil.storage.tables import METRICS

RERUN = "delete it and run `dvc repro`"


class _MetricsPart(BaseModel):
    """A part of the metrics: what is read of it; it may hold more."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class _F1(_MetricsPart):
    f1: float
    questions: int


class _Score(_MetricsPart):
    accuracy: float
    low: float
    high: float
    questions: int


class _StudentMetrics(_Score):
    parameters: int | None = None
    by_option: _Score | None = None
    words: _F1 | None = None
    rationales: dict[str, _F1] = {}
    classes: dict[str, float] = {}


class _TeacherMetrics(_MetricsPart):
    rationales: dict[str, int]
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    questions: int | None = None
    parameters: int | None = None
    student_share: float | None = None
    train: _Score | None = None


class _Overlap(_MetricsPart):
    overlap: float
    chance: float


class _Metrics(_MetricsPart):
    student: _StudentMetrics
    teachers: dict[str, _TeacherMetrics]
    saliency: _Overlap | dict[str, None]


@contextmanager
def explain_damage(path: Path | str, advice: str = RERUN) -> Iterator[None]:
    """Turn errors in reading a file that is not as it was written into a `UserError`."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `dvc repro` makes it") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        reason = f"{key}: {first['msg']}" if key else first["msg"]
        raise UserError(f"{path}: not as it was written ({reason}); {advice}") from error
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise UserError(f"{path}: not as it was written ({reason}); {advice}") from error


def read_metrics() -> dict[str, Any]:
    """Read the metrics that `evaluate` wrote; raise `UserError` if they are missing or damaged."""
    with explain_damage(METRICS):
        metrics = json.loads(METRICS.read_bytes())
        _Metrics.model_validate(metrics)
        return metrics


def read_points(text: str) -> list[tuple[int, float]]:
    """Return the steps and values of a curve of DVCLive (TSV), by its first two columns."""
    rows = list(csv.reader(io.StringIO(text), delimiter="\t"))[1:]
    return [(int(step), float(value)) for step, value in rows]


def read_rows(path: Path, columns: Sequence[str], numbers: Sequence[str]) -> list[dict[str, str]]:
    """Read a CSV file with at least these columns, of which some are numbers or empty.

    Raises `UserError` if it is damaged.
    """
    with explain_damage(path):
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")), strict=True))
        for row in rows:
            if None in row or None in row.values() or not row.keys() >= {*columns, *numbers}:
                raise ValueError(f"expected the columns {', '.join([*columns, *numbers])}")
            for name in numbers:
                float(row[name] or 0)
        if not rows:
            raise ValueError("no row")
        return rows


def number(values: Mapping[str, Any], key: str) -> float:
    """Return a number of a mapping; raise a `ValueError` if it is none."""
    value = values[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} is {value!r}, not a number")
    return value
