"""The report: one HTML file about a run, from its accuracy to every answer.

Text from models and data sets is escaped, and the page's content policy lets a browser run its one
script only and fetch nothing.
"""

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.distil.evaluation.salient_words import SHADES
from stages.distil.interface.escaping import html_templates
from stages.distil.interface.method import STATUSES
from stages.distil.interface.parameters import Parameters
from stages.distil.reporting.answers import make_cards, name_comparisons
from stages.distil.reporting.curves import Curves
from stages.distil.reporting.filters import answer_filters, lesson_filters
from stages.distil.reporting.lessons import EXAMPLES, MEANINGS, Written, shade
from stages.distil.reporting.other_runs import as_element
from stages.distil.reporting.plots import draw_curves
from stages.distil.reporting.reading import Results

TEMPLATES = Path(__file__).parent / "templates"

Row = dict[str, Any]


def page(parameters: Parameters, results: Results) -> str:
    """Return the report as HTML that needs no other file."""
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    losses, accuracy = (
        {name.removeprefix(kind): c for name, c in results.curves.items() if name.startswith(kind)}
        for kind in ("loss/", "validation/")
    )
    teachers = {name: written.rows for name, written in results.teachers.items()}
    classes = sorted(results.metrics["student"].get("classes", {}))
    comparisons = name_comparisons(results.predictions, teachers, results.runs)
    return (
        html_templates(TEMPLATES)
        .get_template("report.html.jinja")
        .render(
            parameters=parameters,
            results=results,
            student=results.metrics["student"],
            ways=list(_ways(results.metrics)),
            best_teacher=_best_teacher(results.metrics["teachers"]),
            classes=classes,
            cards=list(make_cards(results.predictions, teachers, results.runs)),
            comparisons=comparisons,
            answer_filters=answer_filters(classes, comparisons),
            confident=list(make_cards(results.failures.confident, teachers, {})),
            statuses=STATUSES,
            meanings=MEANINGS,
            most_examples=EXAMPLES,
            examples=list(_examples(results.teachers)),
            lesson_filters=lesson_filters(),
            shaded=list(shade(results.scored, parameters.saliency, teachers)),
            shades=SHADES,
            plots=[
                ("Losses", losses, _figure(losses, "loss")),
                ("Accuracy on validation questions", accuracy, _figure(accuracy, "accuracy")),
            ],
            zip=zip,
            style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def _ways(metrics: Row) -> Iterator[tuple[str, Row]]:
    """Yield the name and score of each way in which the student answers, and of each teacher."""
    student = metrics["student"]
    size = {"parameters": student["parameters"]} if "parameters" in student else {}
    ways = {"student": student}
    if "reasoned" in student:
        ways = {"student, after reasoning": student["reasoned"] | size}
        if "direct" in student:
            ways["student, directly"] = student["direct"]
    for name, score in ways.items():
        yield name, score
        if "by_option" in score:
            yield f"{name}, most probable option", score["by_option"]
    if "voted" in student:
        yield f"student, vote of {student['voted']['samples']} drawn texts", student["voted"]
    for name, score in metrics["teachers"].items():
        if "accuracy" in score:
            yield f"{name}, zero-shot", score


def _best_teacher(teachers: Row) -> tuple[str, Row] | None:
    """Return the teacher with the highest accuracy, the first of several, if any was asked."""
    asked = [(name, score) for name, score in teachers.items() if "accuracy" in score]
    return max(asked, key=lambda item: item[1]["accuracy"], default=None)


def _examples(teachers: dict[str, Written]) -> Iterator[tuple[str, list[tuple[str, Row]]]]:
    """Yield each status that a rationale has, with examples of every teacher."""
    for status in STATUSES:
        rows = [(name, row) for name, of in teachers.items() for row in of.examples.get(status, [])]
        if rows:
            yield status, rows


def _figure(curves: Curves, label: str) -> str:
    """Return curves over training steps as an element of a page."""
    return as_element(draw_curves(curves, label)) if curves else ""
