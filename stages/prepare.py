"""Stage `prepare`: make the table of questions from the data set in use."""

import random
import shutil
import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stages.distil.interface.command import run_stage
from stages.distil.interface.errors import UserError
from stages.distil.interface.parameters import Parameters
from stages.distil.questions import reading
from stages.distil.questions.sampling import choose_subset
from stages.distil.storage import tables
from stages.distil.storage.examples import POOL, SPLITS, Example

POOL_DRAWN_FROM = 4  # times as many questions, the first ones of train
PARTS = Path(".cache/prepare")  # each split waits in a table of its own: test is read first


def prepare(parameters: Parameters) -> None:
    """Write `examples` and `rejected`; stop when too many rows are bad.

    Repeated questions are set aside too, and are no reason to stop.
    """
    data, settings = parameters.data, parameters.data_set
    if note := reading.warning(settings):
        print(f"prepare: warning: {note}", file=sys.stderr)
    ids: dict[str, list[str]] = {split: [] for split in SPLITS}
    tally: Counter[str] = Counter()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, PARTS, ignore_errors=True)
        with ExitStack() as writers:
            parts = {
                split: writers.enter_context(
                    tables.TableWriter(PARTS / f"{split}.parquet", tables.SCHEMAS[tables.EXAMPLES])
                )
                for split in SPLITS
            }
            rejected = stack.enter_context(tables.TableWriter(tables.REJECTED))
            first = ""
            rows = reading.read(settings, parameters.seed, data.max_characters, tally)
            for row in tqdm(rows, desc="prepare", unit="row", delay=5, file=sys.stderr):
                if isinstance(row, Example):
                    ids[row.split].append(row.id)
                    parts[row.split].write(tables.example_row(row))
                else:
                    rejected.write(asdict(row))
                    if row.repeated:
                        tally["repeated"] += 1
                        continue
                    first = first or f"{row.source}, row {row.row}: {row.reason}"
                    tally["rejected"] += 1
        _check_counts(parameters, ids, tally["rejected"], first)
        chosen = choose_subset(ids["train"], data.fraction, data.limit, parameters.seed)
        examples = stack.enter_context(tables.TableWriter(tables.EXAMPLES))
        for split in SPLITS:
            for place, written in enumerate(tables.scan_table(PARTS / f"{split}.parquet")):
                if split != "train" or chosen is None or place in chosen:
                    examples.write(written)
        if not ids[POOL]:
            for written in _pool(parameters):
                examples.write(written | {"split": POOL})
    sizes = {split: len(found) for split, found in ids.items()}
    if chosen is not None:
        sizes["train"] = len(chosen)
    counts = ", ".join(f"{size} {split}" for split, size in sizes.items() if size)
    notes = "".join(f"; {count} {what}" for what, count in sorted(tally.items()))
    print(f"{data.name}: {counts}{notes}")


def _pool(parameters: Parameters) -> list[dict[str, Any]]:
    """Choose train questions that prompts may show, for a data set without a pool of its own.

    They are drawn from the first rows of the whole train split, those with a rationale where there
    are any: a subset, or rows added at its end, leave the pool and with it every prompt as it is.
    """
    size = parameters.data.pool
    first = list(islice(tables.scan_table(PARTS / "train.parquet"), POOL_DRAWN_FROM * size))
    solved = [row for row in first if any(r["text"].strip() for r in row["rationales"])]
    among = solved or first
    draw = random.Random(f"pool {parameters.seed}")
    return draw.sample(among, min(size, len(among)))


def _check_counts(
    parameters: Parameters, ids: dict[str, list[str]], rejected: int, first: str
) -> None:
    total = sum(map(len, ids.values())) + rejected
    if rejected > parameters.data.max_rejected * total:
        raise UserError(
            f"{first} ({rejected} bad rows of {total}; mend them, or raise data.max_rejected to "
            "leave them out)"
        )
    for split in ("train", "validation", "test"):
        if not ids[split]:
            raise UserError(f"data set {parameters.data.name!r} has no {split} question")


if __name__ == "__main__":
    run_stage(prepare, __doc__)
