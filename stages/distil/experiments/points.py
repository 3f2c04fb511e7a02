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
    """A method at one value of a figure's parameter: every run's answers, in the order of seeds."""

    method: str
    value: float | str | None
    answers: list[list[bool]]

    @property
    def accuracies(self) -> list[float]:
        """Accuracy of each run."""
        return [statistics.fmean(correct) for correct in self.answers]

    @property
    def accuracy(self) -> float:
        """Their mean."""
        return statistics.fmean(self.accuracies)


def over_runs(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of two or more runs (Student's t)."""
    middle, spread = statistics.fmean(values), statistics.stdev(values)
    half = float(stats.t.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values))
    return middle - half, middle + half


def interval(point: Point) -> tuple[float, float]:
    """Return a point's 95 % interval: over its runs, or of a single one over test questions."""
    if len(point.answers) == 1:
        return wilson_interval(sum(point.answers[0]), len(point.answers[0]))
    low, high = over_runs(point.accuracies)
    return max(0.0, low), min(1.0, high)


def gain(point: Point, baseline: Point) -> tuple[float, float, float]:
    """Return how much better a point is than the baseline of the same seeds, with its interval."""
    if len(point.answers) == 1:
        found = difference(point.answers[0], baseline.answers[0])
        return found.share, found.low, found.high
    pairs = zip(point.accuracies, baseline.accuracies, strict=True)
    gains = [ours - theirs for ours, theirs in pairs]
    return statistics.fmean(gains), *over_runs(gains)


def headroom(point: Point, baseline: Point, ceiling: Point) -> float | None:
    """Return the share of what right rationales can gain that a point gains.

    (student − fine-tuning) ÷ (oracle-taught − fine-tuning); None where the ceiling is no higher.
    """
    room = ceiling.accuracy - baseline.accuracy
    return (point.accuracy - baseline.accuracy) / room if room > 0 else None


def table(grid: Grid, points: list[Point]) -> Rows:
    """Return a figure's rows: method, value, and COLUMNS; None where there is nothing to say."""
    found = {(point.method, point.value): point for point in points}
    rows = []
    for point in points:
        low, high = interval(point)
        numbers = [point.accuracy, low, high, len(point.answers), None, None, None, None]
        baseline = found.get((grid.baseline, point.value))
        if baseline and point is not baseline:
            numbers[4:7] = gain(point, baseline)
            ceiling = found.get((grid.ceiling, point.value)) if grid.ceiling else None
            if ceiling and point is not ceiling:
                numbers[7] = headroom(point, baseline, ceiling)
        shown = [round(n, 6) if isinstance(n, float) else n for n in numbers]
        rows.append(
            {"method": point.method, "value": point.value}
            | dict(zip(COLUMNS, shown, strict=True))
            | {"each": " ".join(f"{value:.3f}" for value in point.accuracies)}
        )
    return rows
