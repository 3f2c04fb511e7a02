"""The report: one HTML file with results, curves, methods, salient words and rationales.

Text from models and data sets is escaped, and the page's content policy lets a browser run its one
script only and fetch nothing.
"""

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stages.distil.evaluation.salient_words import SHADES, Scored, pieces
from stages.distil.interface.method import STATUSES
from stages.distil.interface.parameters import Parameters
from stages.distil.language.answers import parse_answer, same
from stages.distil.language.words import salient_words
from stages.distil.reporting.plots import draw_curves
from stages.distil.storage.result_files import explain_damage, read_points, read_rows
from stages.distil.storage.tables import DATA_SETS

TEMPLATES = Path(__file__).parent / "templates"

Row = dict[str, Any]
TEXTS = ("method", "value", "each")  # columns of a table of methods
NUMBERS = ("accuracy", "low", "high", "gain", "gain_low", "gain_high", "headroom")


@dataclass(frozen=True)
class Methods:
    """The results of `make figures` at a scale: each figure's rows and its plot as SVG."""

    scale: str
    figures: dict[str, tuple[list[Row], str]]


@dataclass(frozen=True)
class Results:
    """The page's content: `curves` by name as (step, value), and the questions that it shows.

    `predictions` are the first test questions and `scored` the first of `trained` train questions.
    `teachers` are the rows of the tables of rationales for these questions, and `lengths` are the
    median and the 90 % quantile of all rationales' tokens. `near_copies` has the student's accuracy
    on the test questions that a train question nearly repeats, and on the others.
    """

    metrics: Row
    curves: dict[str, list[tuple[int, float]]]
    methods: list["Methods"]
    predictions: list[Row]
    teachers: dict[str, list[Row]]
    lengths: dict[str, dict[str, float]]
    scored: Scored
    trained: int
    near_copies: dict[str, dict[str, float]]


def page(parameters: Parameters, results: Results) -> str:
    """Return the report as HTML that needs no other file."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    losses, accuracy = (
        {name.removeprefix(kind): c for name, c in results.curves.items() if name.startswith(kind)}
        for kind in ("loss/", "validation/")
    )
    return environment.get_template("report.html.jinja").render(
        parameters=parameters,
        metrics=results.metrics,
        losses=losses,
        loss_figure=_figure(losses, "loss"),
        accuracy=accuracy,
        accuracy_figure=_figure(accuracy, "validation accuracy"),
        methods=results.methods,
        zip=zip,
        statuses=STATUSES,
        status_kinds=[(status, f"a rationale that is {status}") for status in STATUSES],
        lengths=results.lengths,
        answered=list(_answered(results)),
        taught=list(_taught(parameters, results)),
        trained=results.trained,
        near_copies=results.near_copies,
        shades=SHADES,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def read_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read DVCLive's curves, such as `loss/total` and `validation/accuracy`, as (step, value)."""
    curves = {}
    for file in sorted(folder.rglob("*.tsv")):
        name = file.relative_to(folder).with_suffix("").as_posix()
        with explain_damage(file):
            curves[name] = read_points(file.read_text(encoding="utf-8"))
    return curves


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
            plot = _element(file.read_text(encoding="utf-8"))
        scale = table.parent.name
        scales.setdefault(scale, Methods(scale, {})).figures[table.stem] = (rows, plot)
    return list(scales.values())


def _data_sets(table: Path) -> list[str]:
    """Return the names of the data sets of a figure's runs."""
    noted = table.with_name(DATA_SETS)
    if not noted.is_file():  # drawn before they were noted
        return ["kinship"]
    with explain_damage(noted, "run `make figures`"):
        return list(json.loads(noted.read_bytes())[table.stem])


def _figure(curves: dict[str, list[tuple[int, float]]], label: str) -> str:
    """Return curves over training steps as an element of a page."""
    return _element(draw_curves(curves, label)) if curves else ""


def _element(svg: str) -> str:
    """Return an SVG file as an element of a page, without its XML declaration."""
    return "".join(svg.partition("<svg")[1:])


def _answered(results: Results) -> Iterable[Row]:
    """Yield each test question with all answers, and the kinds that the page filters by."""
    answers = {
        name: {row["id"]: row["answer"] for row in rows if row["split"] == "test"}
        for name, rows in results.teachers.items()
    }
    for row in results.predictions:
        teachers = [
            (name, answer, same(answer, row["answer"], row["options"]))
            for name, texts in answers.items()
            if row["id"] in texts
            for answer in [parse_answer(texts[row["id"]], row["options"])]
        ]
        kinds = ["right" if row["correct"] else "wrong"]
        if teachers:
            helped = any(right for *_, right in teachers)
            kinds += ["alone"] if row["correct"] and not helped else []
            kinds += ["missed"] if helped and not row["correct"] else []
        scores = row["scores"] or [None] * len(row["options"])
        options = list(zip(row["options"], scores, strict=True))
        yield row | {"teachers": teachers, "kinds": kinds, "scored": options}


def _taught(parameters: Parameters, results: Results) -> Iterable[Row]:
    """Yield train questions with shaded words and what each teacher wrote."""
    written: dict[str, list[tuple[str, str, str]]] = {}
    for name, rows in results.teachers.items():
        for row in rows:
            if row["split"] == "train":
                text = row["rationale"] or ""
                written.setdefault(row["id"], []).append((name, row["status"], text))
    scored = results.scored
    texts, words = scored.texts, scored.words
    chosen = salient_words(texts, words, scored.options, parameters.saliency).to_pylist()
    shown = zip(
        scored.ids, texts.to_pylist(), words.to_pylist(), scored.answers, chosen, strict=True
    )
    for name, text, scores, answer, top in shown:
        rationales = written.get(name, [])
        yield {
            "id": name,
            "pieces": pieces(text, scores, {word.casefold() for word in top}),
            "answer": answer,
            "top": top,
            "rationales": rationales,
            "kinds": sorted({status for _, status, _ in rationales}),
        }
