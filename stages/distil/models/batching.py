"""Laying rows of tokens out in batches.

Knows lengths and token ids; knows nothing of models.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

BATCH_COST = 16  # a batch costs as much as this part of the budget in tokens, however small it is


def by_length(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield the numbers of rows of similar lengths whose padded tokens stay within the budget.

    The longest rows come first; a row that is over the budget comes alone. Of all ways to cut the
    sorted rows into batches this is the one that computes least: the padded tokens, and for each
    batch what it costs apart from them.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    least = np.full(len(order) + 1, np.iinfo(np.int64).max)  # cost of the rows before this one
    least[0] = 0
    begin = np.zeros(len(order) + 1, dtype=int)  # of the last batch among them
    for start, row in enumerate(order):
        width = max(1, lengths[row])
        most = max(1, budget // width)
        ends = np.arange(start + 1, min(len(order), start + most) + 1)
        cost = least[start] + (ends - start) * width + budget // BATCH_COST
        better = cost < least[ends]
        least[ends[better]] = cost[better]
        begin[ends[better]] = start
    cuts = [len(order)]
    while cuts[-1]:
        cuts.append(int(begin[cuts[-1]]))
    for start, end in pairwise(reversed(cuts)):
        yield order[start:end]


def pad(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> tuple[Tensor, Tensor]:
    """Return rows of token ids as (B, N), filled up with `value`, and the mask of what is real."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), value)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for n, row in enumerate(rows):
        here = slice(width - len(row), width) if left else slice(0, len(row))
        ids[n, here] = torch.tensor(row, dtype=torch.long)
        mask[n, here] = 1
    return ids, mask
