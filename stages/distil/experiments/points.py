"""Accuracy over runs: means, intervals, gains over the baseline."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.distil.evaluation.statistics import wilson_interval
from stages.distil.experiments.compare import difference
from stages.distil.experiments.plan import Grid
from stages.distil.storage.csv_files import TableRows

COLUMNS = ("accuracy", "low", "high", "runs", "gain", "gain_low", "gain_high", "p", "headroom")
RESAMPLES = 9_999


@dataclass(frozen=True)
class Point:
    """A method at one value of a figure's parameter.

    For each seed, `answers` says which are correct, and `epochs` which epoch was kept.
    """

    method: str
    value: float | str | None
    answers: list[list[bool]]
    epochs: list[str]

    @property
    def accuracies(self) -> list[float]:
        """The accuracy of each run."""
        return [statistics.fmean(correct) for correct in self.answers]

    @property
    def accuracy(self) -> float:
        """The mean accuracy."""
        return statistics.fmean(self.accuracies)


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval, and the p-value of the hypothesis that it is 0."""

    mean: float
    low: float
    high: float
    p_value: float


def estimate(values: np.ndarray) -> Estimate:
    """Return the mean of values (seeds, questions), as an estimate for other seeds and questions.

    Each of RESAMPLES resamples draws both with replacement (the pigeonhole bootstrap, Owen, Annals
    of Applied Statistics 2007), with a fixed seed. The interval is that of the
    percentiles, and the p-value two-sided.
    """
    seeds, questions = values.shape
    rng = np.random.default_rng(0)
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    of_questions = rng.multinomial(questions, np.full(questions, 1 / questions), RESAMPLES)
    means = ((of_seeds @ values) * of_questions).sum(1) / questions
    low, high = np.quantile(means, [0.025, 0.975])
    beyond = min((means <= 0).sum(), (means >= 0).sum())
    p_value = min(1.0, 2 * (beyond + 1) / (RESAMPLES + 1))
    return Estimate(float(values.mean()), float(low), float(high), float(p_value))


def interval(point: Point) -> tuple[float, float]:
    """Return the 95 % interval of a point: over seeds and questions, or over questions alone."""
    if len(point.answers) == 1:
        return wilson_interval(sum(point.answers[0]), len(point.answers[0]))
    result = estimate(np.array(point.answers, float))
    return result.low, result.high


def gain(point: Point, baseline: Point) -> Estimate:
    """Return a point's gain over the baseline, paired by seed and question."""
    if len(point.answers) == 1:
        single = difference(point.answers[0], baseline.answers[0])
        return Estimate(single.gain, single.low, single.high, single.p_value)
    seeds = min(len(point.answers), len(baseline.answers))  # the first seeds are those of both
    ours, theirs = (np.array(p.answers[:seeds], float) for p in (point, baseline))
    return estimate(ours - theirs)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm, Scand. Journal of Statistics 1979)."""
    order = sorted(range(len(p_values)), key=lambda n: p_values[n])
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, n in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[n]))
        corrected[n] = largest
    return corrected


def headroom(point: Point, baseline: Point, ceiling: Point) -> float | None:
    """Return a point's gain as a share of the ceiling's gain.

    (student − baseline) ÷ (ceiling − baseline); None if the ceiling is not above the baseline.
    """
    room = ceiling.accuracy - baseline.accuracy
    return (point.accuracy - baseline.accuracy) / room if room > 0 else None


def table(grid: Grid, points: list[Point]) -> TableRows:
    """Return the rows of a figure: method, value, COLUMNS, and each run's accuracy and epoch.

    Gain, p and headroom are None if the figure has no other point to compare with. `p` is that of
    the gain, corrected for the number of gains in the figure.
    """
    by_key = {(point.method, point.value): point for point in points}
    rows: TableRows = []
    gains: dict[int, Estimate] = {}
    for number, point in enumerate(points):
        low, high = interval(point)
        row: dict[str, Any] = {"method": point.method, "value": point.value}
        row |= dict.fromkeys(COLUMNS) | {"accuracy": point.accuracy, "low": low, "high": high}
        row["runs"] = len(point.answers)
        baseline = by_key.get((grid.baseline, point.value))
        if baseline and point is not baseline:
            found = gains[number] = gain(point, baseline)
            row |= {"gain": found.mean, "gain_low": found.low, "gain_high": found.high}
            ceiling = by_key.get((grid.ceiling, point.value)) if grid.ceiling else None
            if ceiling and point is not ceiling:
                row["headroom"] = headroom(point, baseline, ceiling)
        row["each"] = " ".join(f"{value:.3f}" for value in point.accuracies)
        rows.append(row | {"epochs": " ".join(point.epochs)})
    for number, p in zip(gains, holm([g.p_value for g in gains.values()]), strict=True):
        rows[number]["p"] = p
    return [{k: round(v, 6) if isinstance(v, float) else v for k, v in r.items()} for r in rows]
