"""Laying rows of tokens out in batches.

Knows lengths and token ids; knows nothing of models.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def by_length(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield the numbers of rows of similar lengths whose padded tokens stay within the budget.

    The longest rows come first; a row that is over the budget comes alone.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        rows = max(1, budget // max(1, lengths[order[start]]))
        yield order[start : start + rows]
        start += rows


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
