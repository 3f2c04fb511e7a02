"""Stage `report`: write one HTML page about the run: accuracy, failures, lessons and training."""

from pathlib import Path

from stages.distil.interface.command import run_stage
from stages.distil.interface.parameters import Parameters
from stages.distil.reporting.page import page
from stages.distil.reporting.reading import read_results
from stages.distil.storage import tables

REPORT = Path("results/report.html")


def report(parameters: Parameters) -> None:
    """Write the page."""
    results = read_results(parameters)
    tables.write_text(REPORT, page(parameters, results))


if __name__ == "__main__":
    run_stage(report, __doc__)
