"""Stage `saliency`: score words of question or rationale by their influence on the answer."""

import sys

from stages.distil.attribution.word_scores import ATTRIBUTIONS, COLUMNS, WordScores
from stages.distil.interface.command import run_stage
from stages.distil.interface.errors import UserError
from stages.distil.interface.parameters import Parameters
from stages.distil.storage import tables
from stages.distil.storage.store import Store


def saliency(parameters: Parameters) -> None:
    """Write the table of word scores, one row per train question that has any."""
    total = tables.count_examples()["train"]
    settings = parameters.saliency
    if settings.of != "question" and settings.teacher not in parameters.teachers:
        tables.write_table(tables.SALIENCY, [])
        print(f"no words are scored: {settings.teacher}, whose rationales hold them, is no teacher")
        return
    accepted = f"{' or '.join(parameters.assemble.statuses)} and says more than its conclusion"
    rows = 0
    with Store(ATTRIBUTIONS, "attributions", COLUMNS) as store:
        scores = WordScores(parameters, store)
        try:
            with tables.TableWriter(tables.SALIENCY) as table:
                for row in scores.rows(lambda: tables.scan_examples("train"), total):
                    table.write(row)
                    rows += 1
                if scores.unexplained == total:
                    raise UserError(
                        f"saliency.of: {settings.of!r} finds no rationale of {settings.teacher} "
                        f"that is {accepted}; see the status column in "
                        f"{tables.rationale_table(settings.teacher)} and assemble.statuses"
                    )
                if not rows:
                    raise UserError(
                        f"{settings.teacher} answers no train question correctly; set "
                        "saliency.only_correct to false or choose another saliency.teacher"
                    )
        finally:
            print(f"saliency, batches: {store.summary()}", file=sys.stderr)
    print(f"{rows:,} of {total:,} train questions scored by {settings.method}")
    if scores.unexplained:
        print(
            f"{scores.unexplained:,} train questions have no words: {settings.teacher} has no "
            f"rationale for them that is {accepted}"
        )


if __name__ == "__main__":
    run_stage(saliency, __doc__)
