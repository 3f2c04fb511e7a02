"""Stage `prepare`: write the table of questions from the data set in use."""

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

POOL_DRAWN_FROM = 4  # how many times the pool size is taken from the start of train
PARTS = Path(".cache/prepare")  # a table per split, as splits are read in another order


def prepare(parameters: Parameters) -> None:
    """Write the tables of examples and of rejected rows; raise `UserError` if too many are bad.

    Repeated questions are rejected too but do not count as bad.
    """
    data, settings = parameters.data, parameters.data_set
    if warning := reading.warning(settings):
        print(f"prepare: warning: {warning}", file=sys.stderr)
    sizes = dict.fromkeys(SPLITS, 0)
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
            first_error = ""
            rows = reading.read(settings, parameters.seed, data.max_characters, tally)
            for row in tqdm(rows, desc="prepare", unit="row", delay=5, file=sys.stderr):
                if isinstance(row, Example):
                    sizes[row.split] += 1
                    parts[row.split].write(tables.example_row(row))
                else:
                    # No table can hold half of a surrogate pair; it stays an escape, as in JSON.
                    text = row.text.encode(errors="backslashreplace").decode()
                    rejected.write(asdict(row) | {"text": text})
                    if row.repeated:
                        tally["repeated"] += 1
                        continue
                    first_error = first_error or f"{row.source}, row {row.row}: {row.reason}"
                    tally["rejected"] += 1
        _check_counts(parameters, sizes, tally, first_error)
        chosen = None
        if data.fraction < 1 or data.limit:
            groups = tables.scan_row_groups(PARTS / "train.parquet", ["id"])
            ids = [name for group in groups for name in group["id"].to_pylist()]
            chosen = choose_subset(ids, data.fraction, data.limit, parameters.seed)
        examples = stack.enter_context(tables.TableWriter(tables.EXAMPLES))
        for split in SPLITS:
            for index, example in enumerate(tables.scan_table(PARTS / f"{split}.parquet")):
                if split != "train" or chosen is None or index in chosen:
                    examples.write(example)
        if not sizes[POOL]:
            for example in _choose_pool(parameters):
                examples.write(example | {"split": POOL})
    if chosen is not None:
        sizes["train"] = len(chosen)
    counts = ", ".join(f"{size} {split}" for split, size in sizes.items() if size)
    notes = "".join(f"; {count} {note}" for note, count in sorted(tally.items()))
    print(f"{data.name}: {counts}{notes}")


def _choose_pool(parameters: Parameters) -> list[dict[str, Any]]:
    """Choose train questions for in-context examples, for a data set without its own pool.

    They are drawn from the first rows of the whole train split, preferring those with a rationale.
    So neither a subset nor rows added at the end change the pool, and with it the prompts.
    """
    size = parameters.data.pool
    first = list(islice(tables.scan_table(PARTS / "train.parquet"), POOL_DRAWN_FROM * size))
    solved = [row for row in first if any(r["text"].strip() for r in row["rationales"])]
    candidates = solved or first
    draw = random.Random(f"pool {parameters.seed}")
    return draw.sample(candidates, min(size, len(candidates)))


def _check_counts(
    parameters: Parameters, sizes: dict[str, int], tally: Counter[str], first_error: str
) -> None:
    rejected = tally["rejected"]
    total = sum(sizes.values()) + rejected
    if rejected > parameters.data.max_rejected * total:
        raise UserError(
            f"{first_error} ({rejected} bad rows of {total}; fix them, or raise data.max_rejected "
            "to skip them)"
        )
    for split in ("train", "validation", "test"):
        if not sizes[split]:
            kinds = [kind for kind in ("left out by where", "repeated", "rejected") if tally[kind]]
            notes = ", ".join(f"{tally[kind]} {kind}" for kind in kinds)
            raise UserError(
                f"data set {parameters.data.name!r} has no {split} questions; "
                + (f"of the rows of all splits, {notes}" if notes else "there are no rows for it")
            )


if __name__ == "__main__":
    run_stage(prepare, __doc__)
