"""Figures as SVG, the same bytes from the same rows."""

import io
from typing import Any

from stages.distil.experiments.compare import Rows
from stages.distil.experiments.plan import Figure


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
