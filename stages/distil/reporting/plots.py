"""Plots as SVG: the same bytes from the same numbers."""

import io
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from stages.distil.storage.csv_files import TableRows

if TYPE_CHECKING:  # importing matplotlib takes a second
    from matplotlib.axes import Axes

DASHES = ("-", "--", ":", "-.")  # lines differ without colours too
MARKERS = "osD^v*"
WIDTH, NARROW = 6.4, 4.6  # inches; a narrow plot's text can be read on a phone
INK = "#010203"  # of axes and texts, where the page decides the colour


def draw_curves(curves: dict[str, list[tuple[int, float]]], label: str) -> str:
    """Draw values over training steps, one line per name; `label` names the values.

    Axes and texts have the colour of the text around the plot, which has no background.
    """

    def draw(axes: "Axes") -> None:
        for number, (name, points) in enumerate(curves.items()):
            steps, values = zip(*points, strict=True)
            style, marker = DASHES[number % len(DASHES)], MARKERS[number % len(MARKERS)]
            axes.plot(steps, values, style, marker=marker, markersize=4, label=name)
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        _remove_frame(axes)
        _add_legend(axes, curves)

    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    colours = dict.fromkeys(inks, INK) | {"figure.facecolor": "none", "axes.facecolor": "none"}
    svg = _svg(draw, (NARROW, 3.2), "report", settings=colours)
    return svg.replace(INK, "currentColor")


def draw_methods(rows: TableRows, title: str) -> str:
    """Draw the mean, interval and single runs of each method, one below the other.

    Rows have `method`, `accuracy`, `low`, `high`, and `each`: the runs' accuracies in one text.
    """

    def draw(axes: "Axes") -> None:
        for place, row in enumerate(rows):
            axes.hlines(place, row["low"], row["high"], color="0.35")
            runs = [float(value) for value in row["each"].split()]
            axes.plot(runs, [place] * len(runs), ".", color="0.6")
            axes.plot(row["accuracy"], place, "o", color="C0")
        axes.set_yticks(range(len(rows)), [row["method"] for row in rows])
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        _remove_frame(axes)

    return _svg(draw, (WIDTH, 0.9 + 0.4 * len(rows)), "figures", title)


def draw_sweep(rows: TableRows, parameter: str, title: str) -> str:
    """Draw each method's accuracy and interval along the values of a parameter.

    Rows have `method`, `value`, `accuracy`, `low` and `high`.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    values = list(dict.fromkeys(row["value"] for row in rows))

    def draw(axes: "Axes") -> None:
        for number, method in enumerate(methods):
            own = [row for row in rows if row["method"] == method]
            places = [values.index(row["value"]) + 0.04 * number for row in own]
            means = [row["accuracy"] for row in own]
            errors = [
                [row["accuracy"] - row["low"] for row in own],
                [row["high"] - row["accuracy"] for row in own],
            ]
            style: Any = {"linestyle": DASHES[number % len(DASHES)], "marker": MARKERS[number % 6]}
            axes.errorbar(places, means, errors, capsize=3, label=method, **style)
        axes.set_xticks(range(len(values)), [str(value) for value in values])
        axes.set_xlabel(parameter)
        axes.set_ylim(0, 1)
        _add_legend(axes, methods)
        _remove_frame(axes)

    return _svg(draw, (WIDTH, 3.2), "figures", title)


def _remove_frame(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _add_legend(axes: "Axes", names: Any) -> None:
    if len(names) > 1:
        axes.legend(frameon=False)


def _svg(
    draw: Callable[["Axes"], None],
    size: tuple[float, float],
    salt: str,
    title: str = "",
    settings: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return what `draw` draws; `size` is in inches, and `salt` seeds the ids of the elements."""
    import matplotlib
    from matplotlib.figure import Figure

    fixed: Any = {"svg.hashsalt": salt, "svg.fonttype": "none", "font.family": "sans-serif"}
    with matplotlib.rc_context(fixed | settings):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        if title:
            figure.suptitle(title, fontsize="small")
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
