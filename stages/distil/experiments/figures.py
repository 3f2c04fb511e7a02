"""The papers' tables and figures from DVC experiments: `make figures`.

The answers of every run are stored in files to commit, so a stored run is never repeated, in any
clone. Tables, plots and the case study depend on these answers alone.
"""

import json
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from stages.distil.experiments.compare import changed_questions, read_predictions, read_training
from stages.distil.experiments.plan import MAIN, Figure, Grid, Run, plan
from stages.distil.experiments.points import Point, table
from stages.distil.experiments.queue import execute, finished
from stages.distil.interface.command import command_line
from stages.distil.interface.errors import UserError, report_errors
from stages.distil.interface.escaping import for_markdown
from stages.distil.interface.settings import load_settings
from stages.distil.reporting.plots import draw_methods, draw_sweep
from stages.distil.storage import tables
from stages.distil.storage.csv_files import TableRows, csv_text
from stages.distil.storage.tables import DATA_SETS, FIGURES

SCALES = Path("stages/figures")
RUNS = FIGURES / "runs"  # predictions, one table per run, named after it
SHOWN = 4  # questions for each side of the case study


def write_figures(grid: Grid, runs: list[Run], folder: Path) -> None:
    """Write every figure of these stored runs into a folder and print its table."""
    schema, files = tables.SCHEMAS[tables.PREDICTIONS], stored_runs()
    digests = dict.fromkeys(run.digest for run in runs)
    answers = {digest: list(tables.scan_table(files[digest], schema)) for digest in digests}
    epochs = {digest: tables.read_metadata(files[digest])["epoch"] for digest in digests}
    data = {
        title: sorted({run.data for run in runs if run.figure == title}) for title in grid.figures
    }
    texts = {DATA_SETS: json.dumps(data, indent=2) + "\n"}
    for title, figure in grid.figures.items():
        grouped: dict[tuple[str, float | str | None], list[Run]] = {}
        for run in runs:
            if run.figure == title:
                grouped.setdefault((run.method, run.value), []).append(run)
        check_questions(title, grouped, answers)
        points = [
            Point(
                *key,
                [[row["correct"] for row in answers[run.digest]] for run in by_seed],
                [epochs[run.digest] for run in by_seed],
            )
            for key, by_seed in grouped.items()
        ]
        rows = table(grid, points)
        texts[f"{title}.csv"] = csv_text(list(rows[0]), rows)
        texts[f"{title}.svg"] = draw(figure, rows)
        _print_table(title, figure, rows)
        if title == MAIN:
            metrics = {
                key: {row["method"]: row[key] for row in rows if row[key] is not None}
                for key in ("gain", "headroom")
            }
            texts["metrics.json"] = json.dumps(metrics, indent=2) + "\n"
            by_method = {
                method: [answers[run.digest] for run in by_seed]
                for (method, _), by_seed in grouped.items()
            }
            texts["cases.md"] = case_study(grid, by_method)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    print(f"\n{len(texts)} files in {folder}/")


def check_questions(
    title: str,
    grouped: dict[tuple[str, float | str | None], list[Run]],
    answers: dict[str, TableRows],
) -> None:
    """Raise `UserError` unless all runs of a figure answered the same questions, value by value."""
    first: dict[float | str | None, Run] = {}
    for (_, value), by_seed in grouped.items():
        for run in by_seed:
            other = first.setdefault(value, run)
            try:
                changed_questions(answers[run.digest], answers[other.digest])
            except UserError as error:
                raise UserError(
                    f"figure {title}: A, {run.name}, and B, {other.name}: {error}"
                ) from None


def draw(figure: Figure, rows: TableRows) -> str:
    """Return a figure as SVG: one row per method, or lines over the values of a parameter."""
    seeds = len(figure.seeds)
    over = f"over {seeds} seeds and test questions" if seeds > 1 else "over test questions"
    title = f"test accuracy, 95 % interval {over}"
    if figure.parameter:
        return draw_sweep(rows, figure.parameter, title)
    return draw_methods(rows, f"{title}; dots: seeds" if seeds > 1 else title)


def _print_table(title: str, figure: Figure, rows: TableRows) -> None:
    print(f"\n{title}: accuracy along {figure.parameter}" if figure.parameter else f"\n{title}")
    print("| method | value | each run | epoch kept | mean | 95 % interval | gain | p | headroom |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        gained = ""
        if row["gain"] is not None:
            gained = f"{row['gain']:+.3f} ({row['gain_low']:+.3f} to {row['gain_high']:+.3f})"
        p_value = "" if row["p"] is None else f"{row['p']:.2g}"
        share = "" if row["headroom"] is None else f"{row['headroom']:.0%}"
        value = "" if row["value"] is None else row["value"]
        between = f"{row['low']:.3f} to {row['high']:.3f}"
        cells = [
            row["method"],
            value,
            row["each"],
            row["epochs"],
            f"{row['accuracy']:.3f}",
            between,
            gained,
            p_value,
            share,
        ]
        print(f"| {' | '.join(map(str, cells))} |")


def case_study(grid: Grid, answers: dict[str, list[TableRows]]) -> str:
    """Return, as Markdown, the questions on which two methods differ for most seeds.

    `answers` contains the predictions of each method, one table per seed. TinyLLM, figure 4.
    """
    method, baseline = grid.case, grid.baseline
    ours, theirs = answers[method], answers[baseline]
    wins = [
        sum(a[n]["correct"] - b[n]["correct"] for a, b in zip(ours, theirs, strict=True))
        for n in range(len(ours[0]))
    ]
    order = sorted(range(len(wins)), key=lambda n: -wins[n])
    helped = [n for n in order if wins[n] > 0][:SHOWN]
    harmed = [n for n in reversed(order) if wins[n] < 0][:SHOWN]
    order_note = f", sorted by how many of the {len(ours)} seeds agree" if len(ours) > 1 else ""
    parts = [f"# Where {method} and {baseline} differ", ""]
    parts += [
        f"Test questions that they answer differently{order_note}. {method} does better on "
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
                f"**{for_markdown(row['id'])}** {for_markdown(row['question'] + options)}",
                "",
                f"The answer is {for_markdown(row['answer'])}.",
                "",
                f"| method | {' | '.join(f'seed {s}' for s in grid.figures[MAIN].seeds)} |",
                f"|---{'|---' * len(ours)}|",
            ]
            for name, by_seed in answers.items():
                predictions = [rows[n] for rows in by_seed]
                cells = [
                    ("✓ " if p["correct"] else "✗ ") + for_markdown(p["prediction"])
                    for p in predictions
                ]
                parts.append(f"| {for_markdown(name)} | {' | '.join(cells)} |")
            parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def stored_runs() -> dict[str, Path]:
    """Return the stored tables of answers, by the digest of their run."""
    return {file.stem.rpartition("-")[2]: file for file in sorted(RUNS.glob("*.parquet"))}


def store_finished(runs: Iterable[Run]) -> list[Run]:
    """Store the answers of the runs that DVC has finished; return the others."""
    stored = stored_runs()
    missing = [run for run in runs if run.digest not in stored]
    if not missing:
        return []
    revisions = finished()
    for run in missing:
        if run.digest in revisions:
            file = RUNS / f"{run.name}.parquet"
            revision = revisions[run.digest]
            schema, training = tables.SCHEMAS[tables.PREDICTIONS], read_training(revision)
            with tables.TableWriter(file, schema, training) as answers:
                for row in read_predictions(revision):
                    answers.write(row)
    return [run for run in missing if run.digest not in revisions]


def make_figures(scale: str, jobs: int | None) -> None:
    """Run the missing experiments of a scale, `jobs` at once, and draw all its figures."""
    grid = load_settings(SCALES / f"{scale}.yaml", Grid)
    runs = plan(grid)
    distinct: dict[str, Run] = {}
    for run in runs:
        distinct.setdefault(run.digest, run)  # a run of two figures is named after the first
    missing = store_finished(distinct.values())
    print(f"{len(distinct)} trainings, {len(missing)} of them to run", file=sys.stderr)
    if missing:
        try:
            execute(missing, jobs or grid.jobs)
        finally:
            store_finished(missing)
    write_figures(grid, runs, FIGURES / scale)


def main() -> None:
    """Run from the command line."""
    parser = command_line("python -m stages.distil.experiments.figures", __doc__)
    parser.add_argument("--scale", default="small", help=f"a file in {SCALES}/ (%(default)s)")
    parser.add_argument("--jobs", type=int, help="trainings at once (default: the scale's `jobs`)")
    chosen = parser.parse_args()
    if chosen.jobs is not None and chosen.jobs < 1:
        parser.error(f"--jobs: expected at least 1, found {chosen.jobs}")
    action = partial(make_figures, chosen.scale, chosen.jobs)
    sys.exit(report_errors("figures", chosen.debug, action))


if __name__ == "__main__":
    main()
