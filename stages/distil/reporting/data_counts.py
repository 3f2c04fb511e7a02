"""What the report says of the questions: how many, which rows were rejected, and near copies."""

import heapq
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.distil.storage import tables
from stages.distil.storage.examples import SPLITS, kind_of

KINDS = 20  # of rejected rows
PAIRS = 5  # of near copies
EXCERPT = 300  # characters of a rejected row

Row = dict[str, Any]


@dataclass(frozen=True)
class RejectedKind:
    """A kind of rejected rows: its reason without values, how many rows, and the first one."""

    reason: str
    rows: int
    first: Row


@dataclass(frozen=True)
class DataCounts:
    """Questions per split, kinds of rejected rows, and near copies in train.

    `copies` are the questions of each split that a train question nearly repeats; `closest` the
    most similar pairs as (split, similarity, question, train question).
    """

    splits: dict[str, int]
    rejected: list[RejectedKind]
    copies: dict[str, int]
    closest: list[tuple[str, float, str, str]]


def count_data() -> DataCounts:
    """Count the questions, rejected rows and near copies; memory holds a block of each table."""
    counts = tables.count_examples()
    order = [name for name in SPLITS if name in counts]
    order += sorted(set(counts) - set(order))
    copies, closest = _near_copies()
    return DataCounts({name: counts[name] for name in order}, _rejected(), copies, closest)


def read_questions(keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], Row]:
    """Return the questions of these splits and ids; read no further than the last of them."""
    rows: dict[tuple[str, str], Row] = {}
    if not keys:
        return rows
    ids = pa.array(sorted({name for _, name in keys}), pa.string())
    columns = ["split", "id", "question", "options", "answer"]
    for group in tables.scan_row_groups(tables.EXAMPLES, columns):
        for row in group.filter(pc.is_in(group["id"], value_set=ids)).to_pylist():
            if (row["split"], row["id"]) in keys:
                rows[row["split"], row["id"]] = row
        if len(rows) == len(keys):
            break
    return rows


def _rejected() -> list[RejectedKind]:
    """Return the most frequent kinds of rejected rows."""
    counts: Counter[str] = Counter()
    first: dict[str, Row] = {}
    for row in tables.scan_table(tables.REJECTED):
        kind = kind_of(row["reason"])
        counts[kind] += 1
        if kind not in first:
            text = row["text"]
            shortened = text if len(text) <= EXCERPT else text[:EXCERPT] + "…"
            first[kind] = row | {"text": shortened}
    order = sorted(counts, key=lambda kind: (-counts[kind], kind))[:KINDS]
    return [RejectedKind(kind, counts[kind], first[kind]) for kind in order]


def _near_copies() -> tuple[dict[str, int], list[tuple[str, float, str, str]]]:
    """Return how many questions of each split are near copies, and the most similar pairs."""
    copies = Counter(tables.scan_column(tables.NEAR_COPIES, "split"))
    rows = tables.scan_table(tables.NEAR_COPIES)
    pairs = heapq.nlargest(PAIRS, rows, key=itemgetter("similarity"))  # the first of a tie
    keys = {(row["split"], row["id"]) for row in pairs}
    texts = read_questions(keys | {("train", row["train_id"]) for row in pairs})
    return dict(sorted(copies.items())), [
        (
            row["split"],
            row["similarity"],
            texts[row["split"], row["id"]]["question"],
            texts["train", row["train_id"]]["question"],
        )
        for row in pairs
        if {(row["split"], row["id"]), ("train", row["train_id"])} <= texts.keys()
    ]
