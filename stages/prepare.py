"""Stage `prepare`: write the table of questions from the data set in use."""

import random
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stages.distil.interface.command import run_stage
from stages.distil.interface.errors import UserError
from stages.distil.interface.parameters import Parameters
from stages.distil.questions import reading
from stages.distil.questions.near_copies import NearCopies
from stages.distil.questions.sampling import choose_subset
from stages.distil.storage import tables
from stages.distil.storage.examples import POOL, SPLITS, Example

POOL_DRAWN_FROM = 4  # how many times the pool size is taken from the start of train
PARTS = Path(".cache/prepare")  # a table per split, as splits are read in another order


@dataclass
class Read:
    """What was read: questions of each split, rows by what became of them, the first bad row."""

    sizes: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*SPLITS, POOL), 0))
    tally: Counter[str] = field(default_factory=Counter)
    first_error: str = ""


def prepare(parameters: Parameters) -> None:
    """Write the tables of examples, rejected rows and near copies.

    Raises `UserError` if too many rows are bad. Repeated questions, and near copies that are
    removed, are rejected too but do not count as bad.
    """
    if warning := reading.warning(parameters.data_set):
        print(f"prepare: warning: {warning}", file=sys.stderr)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, PARTS, ignore_errors=True)
        rejected = stack.enter_context(tables.TableWriter(tables.REJECTED))
        read = _read_questions(parameters, rejected)
        _check_counts(parameters, read)
        copies = NearCopies(
            (row for split in ("validation", "test") for row in _part(split)),
            parameters.data.similarity,
        )
        if parameters.data.near_copies == "remove":
            _remove_near_copies(copies, read, rejected)
        chosen = _choose_train(parameters)
        examples = stack.enter_context(tables.TableWriter(tables.EXAMPLES))
        nearest = _write_questions(examples, chosen, copies)
        if not read.sizes[POOL]:
            for example in _choose_pool(parameters):
                examples.write(example | {"split": POOL})
        _write_near_copies(copies, nearest, read)
    if chosen is not None:
        read.sizes["train"] = len(chosen)
    counts = ", ".join(f"{size} {split}" for split, size in read.sizes.items() if size)
    notes = "".join(f"; {count} {note}" for note, count in sorted(read.tally.items()))
    print(f"{parameters.data.name}: {counts}{notes}")


def _read_questions(parameters: Parameters, rejected: tables.TableWriter) -> Read:
    """Write the questions of each split into a table of PARTS, other rows into `rejected`."""
    read = Read()
    with ExitStack() as stack:
        parts = {
            split: stack.enter_context(
                tables.TableWriter(PARTS / f"{split}.parquet", tables.SCHEMAS[tables.EXAMPLES])
            )
            for split in read.sizes
        }
        longest = parameters.data.max_characters
        rows = reading.read(parameters.data_set, parameters.seed, longest, read.tally)
        for row in tqdm(rows, desc="prepare", unit="row", delay=5, file=sys.stderr):
            if isinstance(row, Example):
                read.sizes[row.split] += 1
                parts[row.split].write(tables.example_row(row))
                continue
            # No table can hold half of a surrogate pair; it stays an escape, as in JSON.
            text = row.text.encode(errors="backslashreplace").decode()
            rejected.write(asdict(row) | {"text": text})
            read.tally["repeated" if row.repeated else "rejected"] += 1
            if not row.repeated and not read.first_error:
                read.first_error = f"{row.source}, row {row.row}: {row.reason}"
    return read


def _part(split: str) -> Iterator[dict[str, Any]]:
    return tables.scan_table(PARTS / f"{split}.parquet", tables.SCHEMAS[tables.EXAMPLES])


def _remove_near_copies(copies: NearCopies, read: Read, rejected: tables.TableWriter) -> None:
    """Take the train questions that nearly repeat one of validation or test out of their part."""
    kept = PARTS / "kept.parquet"
    with tables.TableWriter(kept, tables.SCHEMAS[tables.EXAMPLES]) as table:
        for number, row in enumerate(_part("train"), start=1):
            if not (found := copies.find(row)):
                table.write(row)
                continue
            place = max(found, key=lambda place: (found[place], -place))
            split, name = copies.ids[place]
            reason = f"nearly {name!r} of {split} (similarity {found[place]:.2f})"
            text = row["question"]
            rejected.write({"source": "train", "row": number, "reason": reason, "text": text})
            read.tally["near copies removed"] += 1
            read.sizes["train"] -= 1
    kept.replace(PARTS / "train.parquet")
    if not read.sizes["train"]:
        raise UserError(
            "every train question nearly repeats one of validation or test; set data.near_copies "
            "to keep, or raise data.similarity"
        )


def _write_questions(
    examples: tables.TableWriter, chosen: set[int] | None, copies: NearCopies
) -> dict[int, tuple[float, str]]:
    """Write the questions of all splits; return what train questions nearly repeat.

    That is the place in `copies` of each such question, with the largest similarity to it and the
    train question that has it.
    """
    nearest: dict[int, tuple[float, str]] = {}
    for split in (*SPLITS, POOL):
        for index, example in enumerate(_part(split)):
            if split != "train":
                examples.write(example)
            elif chosen is None or index in chosen:
                examples.write(example)
                for place, similarity in copies.find(example).items():
                    if similarity > nearest.get(place, (0, ""))[0]:
                        nearest[place] = similarity, example["id"]
    return nearest


def _write_near_copies(
    copies: NearCopies, nearest: dict[int, tuple[float, str]], read: Read
) -> None:
    with tables.TableWriter(tables.NEAR_COPIES) as table:
        for place, (similarity, train_id) in sorted(nearest.items()):
            split, name = copies.ids[place]
            table.write(
                {"split": split, "id": name, "train_id": train_id, "similarity": similarity}
            )
            read.tally[f"of {split} with a near copy in train"] += 1


def _choose_train(parameters: Parameters) -> set[int] | None:
    """Return the positions of the train questions to use; None for all."""
    data = parameters.data
    if data.fraction == 1 and not data.limit:
        return None
    ids = list(tables.scan_column(PARTS / "train.parquet", "id"))
    return choose_subset(ids, data.fraction, data.limit, parameters.seed)


def _choose_pool(parameters: Parameters) -> list[dict[str, Any]]:
    """Choose train questions for in-context examples, for a data set without its own pool.

    They are drawn from the first rows of the whole train split, preferring those with a rationale.
    So neither a subset nor rows added at the end change the pool, and with it the prompts.
    """
    size = parameters.data.pool
    first = list(islice(_part("train"), POOL_DRAWN_FROM * size))
    solved = [row for row in first if any(r["text"].strip() for r in row["rationales"])]
    candidates = solved or first
    draw = random.Random(f"pool {parameters.seed}")
    return draw.sample(candidates, min(size, len(candidates)))


def _check_counts(parameters: Parameters, read: Read) -> None:
    tally, rejected = read.tally, read.tally["rejected"]
    total = sum(read.sizes.values()) + rejected
    if rejected > parameters.data.max_rejected * total:
        raise UserError(
            f"{read.first_error} ({rejected} bad rows of {total}; fix them, or raise "
            "data.max_rejected to skip them)"
        )
    for split in SPLITS:
        if not read.sizes[split]:
            kinds = [kind for kind in ("left out by where", "repeated", "rejected") if tally[kind]]
            notes = ", ".join(f"{tally[kind]} {kind}" for kind in kinds)
            raise UserError(
                f"data set {parameters.data.name!r} has no {split} questions; "
                + (f"of the rows of all splits, {notes}" if notes else "there are no rows for it")
            )


if __name__ == "__main__":
    run_stage(prepare, __doc__)
