"""Stage `report`: write one HTML page with results, curves, rationales and salient words."""

from pathlib import Path

from stages.distil.evaluation.salient_words import read_scored
from stages.distil.interface.command import run_stage
from stages.distil.interface.parameters import Parameters
from stages.distil.reporting.page import Results, page, read_curves, read_methods
from stages.distil.storage import tables

CURVES = Path("results/train/plots/metrics")
REPORT = Path("results/report.html")


def report(parameters: Parameters) -> None:
    """Write the page."""
    teachers = parameters.teachers
    results = Results(
        metrics=tables.read_metrics(),
        curves=read_curves(CURVES),
        methods=read_methods(tables.FIGURES),
        predictions=tables.read_table(tables.PREDICTIONS),
        teachers={name: tables.read_table(tables.rationale_table(name)) for name in teachers},
        scored=read_scored(),
    )
    tables.write_text(REPORT, page(parameters, results))


if __name__ == "__main__":
    run_stage(report, __doc__)
