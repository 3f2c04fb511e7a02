"""Group rows of tokens into batches and pad them."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice, pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

BATCH_COST = 16  # the fixed cost of a batch in tokens is the budget divided by this
T = TypeVar("T")


def in_parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of `size`; the last may be shorter."""
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part


def by_length(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield batches of row indices: similar lengths, at most `budget` tokens with padding.

    The longest rows come first; a row above the budget is a batch of its own. Of all ways to cut
    the sorted rows, this one has the lowest cost: padded tokens plus a fixed cost per batch.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    lowest_cost = np.full(len(order) + 1, np.iinfo(np.int64).max)  # of the rows before this one
    lowest_cost[0] = 0
    last_start = np.zeros(len(order) + 1, dtype=int)  # of the last batch among them
    for start, row in enumerate(order):
        width = max(1, lengths[row])
        max_rows = max(1, budget // width)
        ends = np.arange(start + 1, min(len(order), start + max_rows) + 1)
        cost = lowest_cost[start] + (ends - start) * width + budget // BATCH_COST
        better = cost < lowest_cost[ends]
        lowest_cost[ends[better]] = cost[better]
        last_start[ends[better]] = start
    cuts = [len(order)]
    while cuts[-1]:
        cuts.append(int(last_start[cuts[-1]]))
    for start, end in pairwise(reversed(cuts)):
        yield order[start:end]


def of_one_length(batches: Iterable[list[int]], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Cut batches of row indices, each sorted by length, so that no row needs padding."""
    for batch in batches:
        for _, rows in groupby(batch, key=lambda row: lengths[row]):
            yield list(rows)


def pad(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> tuple[Tensor, Tensor]:
    """Return token ids (B, N), padded with `value`, and a mask (B, N) that is 1 for real tokens."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), value)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for n, row in enumerate(rows):
        columns = slice(width - len(row), width) if left else slice(0, len(row))
        ids[n, columns] = torch.tensor(row, dtype=torch.long)
        mask[n, columns] = 1
    return ids, mask
