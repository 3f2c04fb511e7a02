"""Stage `prepare`: make the table of questions from the data set in use."""

from collections.abc import Iterator
from dataclasses import asdict

from stages.distil import tables
from stages.distil.command import run_stage
from stages.distil.errors import UserError
from stages.distil.examples import SPLITS, Example
from stages.distil.parameters import Kinship, Parameters
from stages.distil.sources import jsonl, kinship


def prepare(parameters: Parameters) -> None:
    """Write `examples` and `rejected`; stop when too many rows are refused."""
    examples: list[Example] = []
    rejected: list[jsonl.Rejected] = []
    for row in _read(parameters):
        if isinstance(row, Example):
            examples.append(row)
        else:
            rejected.append(row)
    share = len(rejected) / max(1, len(examples) + len(rejected))
    if share > parameters.data.max_rejected:
        first = rejected[0]
        raise UserError(
            f"{first.source}, line {first.row}: {first.reason} ({len(rejected)} bad rows, share "
            f"{share:.4f}; mend them, or set data.max_rejected to leave them out)"
        )
    limit = parameters.data.limit
    order = {split: [e for e in examples if e.split == split] for split in SPLITS}
    order["train"] = order["train"][:limit]
    for split in ("train", "validation", "test"):
        if not order[split]:
            raise UserError(f"data set {parameters.data.name!r} has no {split} question")
    chosen = [example for split in SPLITS for example in order[split]]
    tables.write_examples(chosen)
    tables.write_table(tables.REJECTED, (asdict(row) for row in rejected))
    counts = ", ".join(f"{len(rows)} {split}" for split, rows in order.items() if rows)
    print(f"{parameters.data.name}: {counts}; {len(rejected)} rejected")


def _read(parameters: Parameters) -> Iterator[Example | jsonl.Rejected]:
    settings = parameters.data_set
    if isinstance(settings, Kinship):
        return kinship.read(settings, parameters.seed)
    return jsonl.read(settings)


if __name__ == "__main__":
    run_stage(prepare, __doc__)
