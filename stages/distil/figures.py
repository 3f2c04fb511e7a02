"""The papers' tables and figures, drawn from DVC experiments: `make figures`.

Which runs there are is `grids`' business; here their answers are kept, to be committed, and become
tables with intervals, plots and a case study, the same bytes from the same answers. A run whose
answers are there never runs again, in no clone.
"""

import argparse
import csv
import io
import json
import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from stages.distil import grids, tables
from stages.distil.compare import Rows, changed_questions, difference, read_predictions
from stages.distil.errors import report_errors
from stages.distil.grids import MAIN, Figure, Grid, Run
from stages.distil.parameters import load_settings
from stages.distil.scoring import wilson_interval
from stages.distil.tables import FIGURES

SCALES = Path("stages/figures")
RUNS = FIGURES / "runs"  # one table of predictions a run, named as it is
SHOWN = 4  # questions of the case study on each side
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


def draw(figure: Figure, rows: Rows) -> str:
    """Return a figure as SVG: methods below each other, or lines along a parameter."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    plain: Any = {"svg.hashsalt": "figures", "svg.fonttype": "none", "font.family": "sans-serif"}
    with matplotlib.rc_context(plain):
        methods = list(dict.fromkeys(row["method"] for row in rows))
        height = 3.2 if figure.parameter else 0.9 + 0.4 * len(methods)
        canvas = Canvas(figsize=(6.4, height), layout="constrained")
        axes = canvas.subplots()
        if figure.parameter:
            _draw_lines(axes, figure, rows, methods)
        else:
            _draw_methods(axes, rows, methods)
        axes.spines[["top", "right"]].set_visible(False)
        seeds = len(figure.seeds)
        over = f"over {seeds} seeds (dots)" if seeds > 1 else "over test questions"
        canvas.suptitle(f"test accuracy, 95 % interval {over}", fontsize="small")
        text = io.StringIO()
        canvas.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _draw_methods(axes: Any, rows: Rows, methods: list[str]) -> None:
    for place, row in enumerate(rows):
        axes.hlines(place, row["low"], row["high"], color="0.35")
        each = [float(value) for value in row["each"].split()]
        axes.plot(each, [place] * len(each), ".", color="0.6")
        axes.plot(row["accuracy"], place, "o", color="C0")
    axes.set_yticks(range(len(methods)), methods)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)


def _draw_lines(axes: Any, figure: Figure, rows: Rows, methods: list[str]) -> None:
    values = list(dict.fromkeys(row["value"] for row in rows))
    dashes = ["-", "--", ":", "-."]  # told apart without colours too
    for number, method in enumerate(methods):
        own = [row for row in rows if row["method"] == method]
        places = [values.index(row["value"]) + 0.04 * number for row in own]
        middle = [row["accuracy"] for row in own]
        errors = [
            [row["accuracy"] - row["low"] for row in own],
            [row["high"] - row["accuracy"] for row in own],
        ]
        style = {"linestyle": dashes[number % len(dashes)], "marker": "osD^v*"[number % 6]}
        axes.errorbar(places, middle, errors, capsize=3, label=method, **style)
    axes.set_xticks(range(len(values)), [str(value) for value in values])
    axes.set_xlabel("teachers" if figure.parameter == "teachers" else figure.parameter)
    axes.set_ylim(0, 1)
    if len(methods) > 1:
        axes.legend(frameon=False)


def case_study(grid: Grid, answers: dict[str, list[Rows]]) -> str:
    """Return, as Markdown, questions that two methods answer differently with most seeds.

    `answers` are each method's predictions, one table a seed. TinyLLM, figure 4.
    """
    method, baseline = grid.case, grid.baseline
    ours, theirs = answers[method], answers[baseline]
    for a, b in zip(ours, theirs, strict=True):
        changed_questions(a, b)  # the same questions
    wins = [
        sum(a[n]["correct"] - b[n]["correct"] for a, b in zip(ours, theirs, strict=True))
        for n in range(len(ours[0]))
    ]
    order = sorted(range(len(wins)), key=lambda n: -wins[n])
    helped = [n for n in order if wins[n] > 0][:SHOWN]
    harmed = [n for n in reversed(order) if wins[n] < 0][:SHOWN]
    first = f", those first on which most of the {len(ours)} seeds do" if len(ours) > 1 else ""
    parts = [f"# Where {method} and {baseline} differ", ""]
    parts += [
        f"Test questions that they answer otherwise{first}; {method} does better on "
        f"{sum(win > 0 for win in wins)} of {len(wins)}, worse on "
        f"{sum(win < 0 for win in wins)}.",
        "",
    ]
    for title, chosen in ((f"{method} is right", helped), (f"{baseline} is right", harmed)):
        parts += [f"## {title}", ""]
        for n in chosen:
            row = ours[0][n]
            options = f" ({', '.join(row['options'])})" if row["options"] else ""
            parts += [
                f"**{_plain(row['id'])}** {_plain(row['question'] + options)}",
                "",
                f"The answer is {_plain(row['answer'])}.",
                "",
                f"| method | {' | '.join(f'seed {s}' for s in grid.figures[MAIN].seeds)} |",
                f"|---{'|---' * len(ours)}|",
            ]
            for name, each in answers.items():
                said = [rows[n] for rows in each]
                cells = [("✓ " if s["correct"] else "✗ ") + _plain(s["prediction"]) for s in said]
                parts.append(f"| {name} | {' | '.join(cells)} |")
            parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _plain(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line."""
    marks = {ord(mark): f"\\{mark}" for mark in "\\`*_[]<>|#~&$"}
    return " ".join(text.split()).translate(marks)


def write(grid: Grid, runs: list[Run], folder: Path) -> None:
    """Read what the runs answered, write every figure into a folder and print its table."""
    expected, files = tables.SCHEMAS[tables.PREDICTIONS], kept()
    digests = dict.fromkeys(run.digest for run in runs)
    read = {digest: list(tables.scan_table(files[digest], expected)) for digest in digests}
    texts: dict[str, str] = {}
    for title, figure in grid.figures.items():
        grouped: dict[tuple[str, float | str | None], list[Rows]] = {}
        for run in runs:
            if run.figure == title:
                grouped.setdefault((run.method, run.value), []).append(read[run.digest])
        points = [
            Point(*key, [[row["correct"] for row in rows] for rows in each])
            for key, each in grouped.items()
        ]
        rows = table(grid, points)
        texts[f"{title}.csv"] = _csv(rows)
        texts[f"{title}.svg"] = draw(figure, rows)
        _print(title, figure, rows)
        if title == MAIN:
            metrics = {
                key: {row["method"]: row[key] for row in rows if row[key] is not None}
                for key in ("gain", "headroom")
            }
            texts["metrics.json"] = json.dumps(metrics, indent=2) + "\n"
            answers = {method: each for (method, _), each in grouped.items()}
            texts["cases.md"] = case_study(grid, answers)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    print(f"\n{len(texts)} files in {folder}/")


def _csv(rows: Rows) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _print(title: str, figure: Figure, rows: Rows) -> None:
    print(f"\n{title}: accuracy along {figure.parameter}" if figure.parameter else f"\n{title}")
    print("| method | value | each run | mean | 95 % interval | gain | headroom |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        gained = ""
        if row["gain"] is not None:
            gained = f"{row['gain']:+.3f} ({row['gain_low']:+.3f} to {row['gain_high']:+.3f})"
        share = "" if row["headroom"] is None else f"{row['headroom']:.0%}"
        value = "" if row["value"] is None else row["value"]
        between = f"{row['low']:.3f} to {row['high']:.3f}"
        cells = [
            row["method"],
            value,
            row["each"],
            f"{row['accuracy']:.3f}",
            between,
            gained,
            share,
        ]
        print(f"| {' | '.join(map(str, cells))} |")


def kept() -> dict[str, Path]:
    """Return the tables of answers that are kept, by their run's digest."""
    return {file.stem.rpartition("-")[2]: file for file in sorted(RUNS.glob("*.parquet"))}


def keep(runs: Iterable[Run]) -> list[Run]:
    """Keep the answers of those runs that DVC has finished; return the others."""
    here = kept()
    missing = [run for run in runs if run.digest not in here]
    if not missing:
        return []
    revisions = grids.finished()
    for run in missing:
        if run.digest in revisions:
            file = RUNS / f"{run.name}.parquet"
            with tables.TableWriter(file, tables.SCHEMAS[tables.PREDICTIONS]) as answers:
                for row in read_predictions(revisions[run.digest]):
                    answers.write(row)
    return [run for run in missing if run.digest not in revisions]


def make(scale: str, jobs: int | None) -> None:
    """Run what is missing of a scale's experiments, `jobs` at once, and draw all its figures."""
    grid = load_settings(SCALES / f"{scale}.yaml", Grid)
    runs = grids.plan(grid)
    wanted: dict[str, Run] = {}
    for run in runs:
        wanted.setdefault(run.digest, run)  # one that two figures need is the first one's
    missing = keep(wanted.values())
    print(f"{len(wanted)} trainings, {len(missing)} of them to run", file=sys.stderr)
    if missing:
        try:
            grids.execute(missing, jobs or grid.jobs)
        finally:
            keep(missing)
    write(grid, runs, FIGURES / scale)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.distil.figures", description=__doc__)
    parser.add_argument("--scale", default="small", help=f"a file of {SCALES}/ (%(default)s)")
    parser.add_argument("--jobs", type=int, help="trainings at once (as the scale's file says)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    chosen = parser.parse_args()
    if chosen.jobs is not None and chosen.jobs < 1:
        parser.error(f"--jobs: {chosen.jobs}: at least 1")
    sys.exit(report_errors("figures", chosen.debug, lambda: make(chosen.scale, chosen.jobs)))


if __name__ == "__main__":
    main()
