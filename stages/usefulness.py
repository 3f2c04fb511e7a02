"""Stage `usefulness`, one per teacher: how much each rationale helps to find the answer."""

import sys

from stages.distil.interface.command import run_stage
from stages.distil.interface.parameters import Parameters
from stages.distil.storage import tables
from stages.distil.storage.rationales import usefulness_table


def usefulness(parameters: Parameters, teacher: str) -> None:
    """Write the table of a teacher's rationales' usefulness; it is empty if nothing reads it."""
    tables.check_exists(tables.rationale_table(teacher))
    if parameters.assemble.choose == "all":
        tables.write_table(usefulness_table(teacher), [])
        print(f"{teacher}: not measured, all rationales are chosen (assemble.choose)")
        return
    from stages.distil.evaluation.usefulness import COLUMNS, STORE, Scorer  # takes seconds
    from stages.distil.storage.store import Store

    values = []
    with Store(STORE, "usefulness", COLUMNS) as store:
        try:
            with tables.TableWriter(usefulness_table(teacher)) as table:
                for row in Scorer(parameters, store).rows(teacher):
                    table.write(row)
                    if row["usefulness"] is not None:
                        values.append(row["usefulness"])
        finally:
            print(f"usefulness, batches: {store.summary()}", file=sys.stderr)
    if values:
        helpful = sum(value > 0 for value in values)
        mean = sum(values) / len(values)
        print(
            f"{teacher}: {helpful:,} of {len(values):,} rationales raise log p(answer), by "
            f"{mean:+.2f} on average"
        )


if __name__ == "__main__":
    run_stage(usefulness, __doc__, ("teacher", "name in the catalogue of models"))
