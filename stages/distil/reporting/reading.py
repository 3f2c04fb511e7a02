"""Read what the report shows: the first questions of every table, and sums over its rows."""

import statistics
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.distil.evaluation.salient_words import Scored, scan_scored
from stages.distil.reporting.page import Results, Row, read_curves, read_methods
from stages.distil.storage import tables
from stages.distil.storage.result_files import read_metrics

ANSWERED = 500  # test questions on the page
TAUGHT = 60  # train questions on the page
NOTHING_SCORED = Scored(
    ids=[],
    texts=pa.array([], pa.string()),
    options=np.empty((0, 2), np.int64),
    words=pa.array([], tables.SCHEMAS[tables.SALIENCY].field("words").type),
    answers=[],
)
COLUMNS = ("id", "split", "rationale", "status", "answer", "output_tokens")


def read_results(teachers: list[str], data: str, curves: Path) -> Results:
    """Read the results of a run on a data set; memory holds a block of each table.

    Raises `UserError` if a stage has not run.
    """
    metrics = read_metrics()
    schema = tables.SCHEMAS[tables.PREDICTIONS]
    predictions = list(islice(tables.scan_table(tables.PREDICTIONS, schema), ANSWERED))
    scored = next((_first(block, TAUGHT) for block in scan_scored()), NOTHING_SCORED)
    shown = pa.array([row["id"] for row in predictions] + scored.ids, pa.string())
    read = {name: _read_teacher(tables.rationale_table(name), shown) for name in teachers}
    trained = sum(len(group) for group in tables.scan_row_groups(tables.EXAMPLES, ["id"], "train"))
    return Results(
        metrics=metrics,
        curves=read_curves(curves),
        methods=read_methods(tables.FIGURES, data),
        predictions=predictions,
        teachers={name: rows for name, (rows, _) in read.items()},
        lengths={name: quantiles(tokens) for name, (_, tokens) in read.items()},
        scored=scored,
        trained=trained,
        near_copies=_near_copies(),
    )


def quantiles(tokens: Counter[int]) -> dict[str, float]:
    """Return the median and the 90 % quantile of lengths, of which each occurs so many times.

    Empty if no length is above 0.
    """
    if not any(tokens):
        return {}
    lengths = list(tokens.elements())
    most = statistics.quantiles(lengths, n=10)[-1] if len(lengths) > 1 else lengths[0]
    return {"median": statistics.median(lengths), "most": most}


def _read_teacher(path: Path, shown: pa.Array) -> tuple[list[Row], Counter[int]]:
    """Return a teacher's rows for the questions shown, and the lengths of all its rationales."""
    rows: list[dict[str, Any]] = []
    tokens: Counter[int] = Counter()
    for group in tables.scan_row_groups(path, COLUMNS):
        rows += group.filter(pc.is_in(group["id"], value_set=shown)).to_pylist()
        in_train = pc.equal(group["split"], "train")
        tokens.update(group["output_tokens"].filter(in_train).to_pylist())
    return rows, tokens


def _near_copies() -> dict[str, dict[str, float]]:
    """Return how many test questions nearly repeat a train question, how many do not, and accuracy.

    Empty if none does.
    """
    copies = tables.scan_table(tables.NEAR_COPIES, tables.SCHEMAS[tables.NEAR_COPIES])
    ids = {row["id"] for row in copies if row["split"] == "test"}
    if not ids:
        return {}
    counts: dict[str, Counter[bool]] = {"repeated": Counter(), "new": Counter()}
    for group in tables.scan_row_groups(tables.PREDICTIONS, ["id", "correct"]):
        for row in group.to_pylist():
            counts["repeated" if row["id"] in ids else "new"][row["correct"]] += 1
    return {
        kind: {"questions": count.total(), "accuracy": count[True] / count.total()}
        for kind, count in counts.items()
        if count
    }


def _first(scored: Scored, count: int) -> Scored:
    return Scored(
        scored.ids[:count],
        scored.texts[:count],
        scored.options[:count],
        scored.words[:count],
        scored.answers[:count],
    )
