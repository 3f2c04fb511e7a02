"""Accuracy over runs: means, intervals, gains over the baseline."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, special, stats

from stages.distil.evaluation.statistics import wilson_interval
from stages.distil.experiments.compare import difference
from stages.distil.experiments.plan import Grid
from stages.distil.interface.errors import UserError
from stages.distil.storage.csv_files import TableRows

COLUMNS = ("accuracy", "low", "high", "runs", "gain", "gain_low", "gain_high", "p", "headroom")
SMALLEST_P = 1e-15  # below it a p-value is 0


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

    The half-width combines that of a t interval over the S seeds' means and that of one over the Q
    questions' means. With their variances s² and q², and the quantile t(n) of n degrees of freedom:

        √( t²(S − 1) s²/S  +  t²(Q − 1) q²/Q )

    Each variance keeps its own degrees of freedom, so that many questions do not make up for few
    seeds; what an answer owes to chance counts in both, which errs on the safe side (Banerjee,
    Sankhyā 22, 1960). The p-value, two-sided, is the level at which the interval reaches 0.

    There are at least two seeds. Raises `UserError` if there are fewer than two questions.
    """
    seeds, questions = values.shape
    if questions < 2:
        raise UserError(
            f"an interval over seeds needs at least 2 test questions, found {questions}; raise "
            "`sizes.test` of the data set"
        )
    mean = float(values.mean())
    errors = np.array([stats.sem(values.mean(1)), stats.sem(values.mean(0))])
    degrees = np.array([seeds - 1, questions - 1])

    def half_width(level: float) -> float:
        return float(np.linalg.norm(special.stdtrit(degrees, level / 2) * errors))

    def excess(level: float) -> float:
        return half_width(level) - abs(mean)

    if excess(SMALLEST_P) > 0 > excess(1):
        p_value = float(optimize.brentq(excess, SMALLEST_P, 1))
    else:  # the mean is 0, or (almost) without error
        p_value = float(mean == 0)
    half = half_width(0.05)
    return Estimate(mean, mean - half, mean + half, p_value)


def interval(point: Point) -> tuple[float, float]:
    """Return the 95 % interval of a point, over seeds and questions.

    That of one run is over questions alone (Wilson) and says nothing about other seeds.
    """
    if len(point.answers) == 1:
        return wilson_interval(sum(point.answers[0]), len(point.answers[0]))
    result = estimate(np.array(point.answers, float))
    return max(0.0, result.low), min(1.0, result.high)


def gain(point: Point, baseline: Point) -> Estimate:
    """Return a point's gain over the baseline, paired by seed and question.

    That of one run is paired by question alone and says nothing about other seeds.
    """
    seeds = min(len(point.answers), len(baseline.answers))  # the first seeds are those of both
    if seeds == 1:
        single = difference(point.answers[0], baseline.answers[0])
        return Estimate(single.gain, single.low, single.high, single.p_value)
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
    the gain, corrected for the number of the figure's gains; that of the grid's main comparison is
    neither corrected nor counted.
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
    main = (grid.main_comparison, None)
    others = [n for n in gains if (points[n].method, points[n].value) != main]
    p_values = {number: found.p_value for number, found in gains.items()}
    p_values |= zip(others, holm([p_values[n] for n in others]), strict=True)
    for number, p in p_values.items():
        rows[number]["p"] = p
    return [{k: round(v, 6) if isinstance(v, float) else v for k, v in r.items()} for r in rows]
