"""Read what the report shows: the first questions of every table, and counts over its rows."""

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from stages.distil.evaluation.salient_words import Scored, scan_scored
from stages.distil.interface.parameters import Parameters
from stages.distil.reporting.curves import Curves, read_curves, read_summary, read_tokens
from stages.distil.reporting.data_counts import DataCounts, count_data
from stages.distil.reporting.failures import Failures, find_failures
from stages.distil.reporting.lessons import Taught, Written, count_taught, read_written
from stages.distil.reporting.other_runs import Methods, read_methods, read_runs
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

Row = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """The page's content.

    `predictions` are the first test questions, `runs` the answers of other runs to them, and
    `scored` the first train questions with scored words. `summary` is that of the training, and
    `tokens` counts those of the train texts.
    """

    metrics: Row
    failures: Failures
    predictions: list[Row]
    runs: dict[str, list[Row]]
    teachers: dict[str, Written]
    taught: Taught
    scored: Scored
    curves: Curves
    summary: dict[str, float]
    tokens: list[Row]
    data: DataCounts
    methods: list[Methods]


def read_results(parameters: Parameters) -> Results:
    """Read the results of a run; memory holds a block of each table.

    Raises `UserError` if a stage has not run.
    """
    metrics = read_metrics()
    predictions = list(islice(tables.scan_table(tables.PREDICTIONS), ANSWERED))
    failures = find_failures(metrics["student"].get("classes", {}))
    scored = next((_first(block, TAUGHT) for block in scan_scored()), NOTHING_SCORED)
    answered = [row["id"] for row in predictions + failures.confident]
    shown = pa.array(answered + scored.ids, pa.string())
    methods = read_methods(tables.FIGURES, parameters.data.name)
    compared = {
        row["method"] for scale in methods for rows, _ in scale.figures.values() for row in rows
    }
    return Results(
        metrics=metrics,
        failures=failures,
        predictions=predictions,
        runs=read_runs(tables.FIGURES / "runs", compared, predictions),
        teachers={name: read_written(name, shown) for name in parameters.teachers},
        taught=count_taught(parameters),
        scored=scored,
        curves=read_curves(tables.TRAINING / "plots/metrics"),
        summary=read_summary(tables.TRAINING / "metrics.json"),
        tokens=read_tokens(),
        data=count_data(),
        methods=methods,
    )


def _first(scored: Scored, count: int) -> Scored:
    return Scored(
        scored.ids[:count],
        scored.texts[:count],
        scored.options[:count],
        scored.words[:count],
        scored.answers[:count],
    )
