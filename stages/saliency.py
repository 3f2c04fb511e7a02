"""Stage `saliency`: score every word of a train question by its influence on the answer."""

import sys

from stages.distil.attribution.word_scores import ATTRIBUTIONS, COLUMNS, WordScores
from stages.distil.interface.command import run_stage
from stages.distil.interface.errors import UserError
from stages.distil.interface.parameters import Parameters
from stages.distil.storage import tables
from stages.distil.storage.store import Store


def saliency(parameters: Parameters) -> None:
    """Write the table of word scores, one row per train question."""
    total = tables.count_examples()["train"]
    rows = 0
    with Store(ATTRIBUTIONS, "attributions", COLUMNS) as store:
        scores = WordScores(parameters, store)
        try:
            with tables.TableWriter(tables.SALIENCY) as table:
                for row in scores.rows(tables.scan_examples("train"), total):
                    table.write(row)
                    rows += 1
                if not rows:
                    raise UserError(
                        f"{parameters.saliency.teacher} answers no train question correctly; set "
                        "saliency.only_correct to false or choose another saliency.teacher"
                    )
        finally:
            print(f"saliency, batches: {store.summary()}", file=sys.stderr)
    print(f"{rows:,} of {total:,} train questions scored by {parameters.saliency.method}")


if __name__ == "__main__":
    run_stage(saliency, __doc__)
