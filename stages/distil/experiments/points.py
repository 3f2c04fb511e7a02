"""Accuracy over runs: means, intervals, gains over the baseline."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from stages.distil.evaluation.statistics import wilson_interval
from stages.distil.experiments.compare import Rows, difference
from stages.distil.experiments.plan import Grid

COLUMNS = ("accuracy", "low", "high", "runs", "gain", "gain_low", "gain_high", "headroom")


@dataclass(frozen=True)
class Point:
    """A method at one value of a figure's parameter: for each seed, which answers are correct."""

    method: str
    value: float | str | None
    answers: list[list[bool]]

    @property
    def accuracies(self) -> list[float]:
        """The accuracy of each run."""
        return [statistics.fmean(correct) for correct in self.answers]

    @property
    def accuracy(self) -> float:
        """The mean accuracy."""
        return statistics.fmean(self.accuracies)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of two or more values (Student's t)."""
    middle, spread = statistics.fmean(values), statistics.stdev(values)
    half = float(stats.t.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values))
    return middle - half, middle + half


def interval(point: Point) -> tuple[float, float]:
    """Return the 95 % interval of a point: over its runs or, for a single run, over questions."""
    if len(point.answers) == 1:
        return wilson_interval(sum(point.answers[0]), len(point.answers[0]))
    low, high = mean_interval(point.accuracies)
    return max(0.0, low), min(1.0, high)


def gain(point: Point, baseline: Point) -> tuple[float, float, float]:
    """Return a point's gain over the baseline with the same seeds, and its 95 % interval."""
    if len(point.answers) == 1:
        single = difference(point.answers[0], baseline.answers[0])
        return single.gain, single.low, single.high
    pairs = zip(point.accuracies, baseline.accuracies, strict=True)
    gains = [ours - theirs for ours, theirs in pairs]
    return statistics.fmean(gains), *mean_interval(gains)


def headroom(point: Point, baseline: Point, ceiling: Point) -> float | None:
    """Return a point's gain as a share of the ceiling's gain.

    (student − baseline) ÷ (ceiling − baseline); None if the ceiling is not above the baseline.
    """
    room = ceiling.accuracy - baseline.accuracy
    return (point.accuracy - baseline.accuracy) / room if room > 0 else None


def table(grid: Grid, points: list[Point]) -> Rows:
    """Return the rows of a figure: method, value, COLUMNS and `each`, the accuracy of each run.

    Gain and headroom are None if the figure has no other point to compare with.
    """
    by_key = {(point.method, point.value): point for point in points}
    rows = []
    for point in points:
        low, high = interval(point)
        numbers = [point.accuracy, low, high, len(point.answers), None, None, None, None]
        baseline = by_key.get((grid.baseline, point.value))
        if baseline and point is not baseline:
            numbers[4:7] = gain(point, baseline)
            ceiling = by_key.get((grid.ceiling, point.value)) if grid.ceiling else None
            if ceiling and point is not ceiling:
                numbers[7] = headroom(point, baseline, ceiling)
        rounded = [round(n, 6) if isinstance(n, float) else n for n in numbers]
        rows.append(
            {"method": point.method, "value": point.value}
            | dict(zip(COLUMNS, rounded, strict=True))
            | {"each": " ".join(f"{value:.3f}" for value in point.accuracies)}
        )
    return rows
