"""Stage `usefulness`, one per teacher: what choosing among rationales compares."""

import sys
from statistics import mean

from stages.distil.interface.command import run_stage
from stages.distil.interface.parameters import Parameters
from stages.distil.storage import tables


def usefulness(parameters: Parameters, teacher: str) -> None:
    """Write the table of a teacher's rationales' usefulness; it is empty if nothing reads it."""
    tables.check_exists(tables.rationale_table(teacher))
    choose = parameters.assemble.choose
    if not parameters.assemble.reads_rationales:
        tables.write_table(tables.usefulness_table(teacher), [])
        print(f"{teacher}: not measured, which assemble.choose: {choose} does not need")
        return
    from stages.distil.evaluation.usefulness import COLUMNS, STORE, Scorer  # takes seconds
    from stages.distil.storage.store import Store

    values = []
    with Store(STORE, "usefulness", COLUMNS) as store:
        try:
            with tables.TableWriter(tables.usefulness_table(teacher)) as table:
                for row in Scorer(parameters, teacher, store).rows():
                    table.write(row)
                    if row["usefulness"] is not None:
                        values.append(row["usefulness"])
        finally:
            print(f"usefulness, batches: {store.summary()}", file=sys.stderr)
    if values and choose == "ratio":
        print(f"{teacher}: rank-surprisal ratio {-mean(values):.2f}, {len(values):,} rationales")
    elif values:
        helpful = sum(value > 0 for value in values)
        print(
            f"{teacher}: {helpful:,} of {len(values):,} rationales raise log p(answer), by "
            f"{mean(values):+.2f} on average"
        )


if __name__ == "__main__":
    run_stage(usefulness, __doc__, ("teacher", "name in the catalogue of models"))
