"""Other trainings on the same data set: the figures of `make figures`, and answers to compare."""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from stages.distil.storage import tables
from stages.distil.storage.result_files import explain_damage, read_rows

Row = dict[str, Any]
TEXTS = ("method", "value", "each")  # columns of a table of methods
NUMBERS = ("accuracy", "low", "high", "gain", "gain_low", "gain_high", "headroom")
STORED = re.compile(r"(?P<method>.+)-(?P<seed>\d+)-[0-9a-f]{10}")  # a run without a swept value
QUESTION = ("id", "question", "options", "answer")


@dataclass(frozen=True)
class Methods:
    """The results of `make figures` at a scale: each figure's rows and its plot as SVG."""

    scale: str
    figures: dict[str, tuple[list[Row], str]]


def read_methods(folder: Path, data: str) -> list[Methods]:
    """Read the tables and plots of each scale of `make figures` below this folder.

    Only those figures are read whose runs all have this data set.
    """
    scales: dict[str, Methods] = {}
    for table in sorted(folder.glob("*/*.csv"), key=lambda file: (file.stem != "methods", file)):
        if _data_sets(table) != [data]:
            continue
        rows: list[Row] = list(read_rows(table, TEXTS, NUMBERS))
        file = table.with_suffix(".svg")
        with explain_damage(file, "run `make figures`"):
            plot = as_element(file.read_text(encoding="utf-8"))
        scale = table.parent.name
        scales.setdefault(scale, Methods(scale, {})).figures[table.stem] = (rows, plot)
    return list(scales.values())


def _data_sets(table: Path) -> list[str]:
    """Return the names of the data sets of a figure's runs."""
    noted = table.with_name(tables.DATA_SETS)
    if not noted.is_file():  # drawn before they were noted
        return ["kinship"]
    with explain_damage(noted, "run `make figures`"):
        return list(json.loads(noted.read_bytes()).get(table.stem, []))  # a figure that is gone


def as_element(svg: str) -> str:
    """Return an SVG file as an element of a page, without its XML declaration."""
    return "".join(svg.partition("<svg")[1:])


def read_runs(folder: Path, methods: Collection[str], shown: list[Row]) -> dict[str, list[Row]]:
    """Return the answers of stored runs to the questions that are shown, by the runs' names.

    These are the runs of these methods with the smallest seed that is stored, whose test questions
    begin with the same ones.
    """
    runs: dict[str, list[Row]] = {}
    smallest: dict[str, int] = {}
    stored = [(STORED.fullmatch(file.stem), file) for file in folder.glob("*.parquet")]
    named = [(m["method"], int(m["seed"]), file) for m, file in stored if m]
    for method, seed, file in sorted(named):
        if method in methods and smallest.setdefault(method, seed) == seed:
            schema = tables.SCHEMAS[tables.PREDICTIONS]
            rows = list(islice(tables.scan_table(file, schema), len(shown)))
            if [_question(row) for row in rows] == [_question(row) for row in shown]:
                kept = ("prediction", "correct")
                runs[file.stem] = [{name: row[name] for name in kept} for row in rows]
    return runs


def _question(row: Row) -> list[Any]:
    return [row[name] for name in QUESTION]
