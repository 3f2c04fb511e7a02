from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.distil.models.batching import BATCH_COST, by_length

LENGTHS = st.lists(st.integers(0, 40), max_size=9)


def cost(batches: list[list[int]], budget: int) -> int:
    """Return the cost of batches of lengths: padded tokens plus a fixed cost per batch."""
    return sum(len(b) * max(1, *b) + budget // BATCH_COST for b in batches)


@given(LENGTHS, st.integers(0, 200))
def test_no_way_to_cut_the_sorted_rows_costs_less(lengths, budget):
    batches = [[lengths[i] for i in batch] for batch in by_length(lengths, budget)]
    ordered = sorted(lengths, reverse=True)
    assert [length for batch in batches for length in batch] == ordered

    def fits(batch: list[int]) -> bool:
        return len(batch) == 1 or len(batch) * max(1, *batch) <= budget

    assert all(map(fits, batches))
    inner = range(1, len(lengths))
    cuts = [cut for n in range(len(lengths)) for cut in combinations(inner, n)]
    ways = [[ordered[a:b] for a, b in pairwise([0, *cut, len(lengths)])] for cut in cuts]
    possible = [cost(way, budget) for way in ways if all(map(fits, way))]
    assert cost(batches, budget) == min(possible, default=0)


@pytest.mark.parametrize(
    ("lengths", "budget", "expected"),
    [
        ([], 100, []),
        ([5, 7, 6], 100, [[1, 2, 0]]),
        ([5, 7, 6], 0, [[1], [2], [0]]),
        ([10, 300, 10, 10], 1600, [[1], [0, 2, 3]]),  # three padded rows would cost 870 tokens
        ([500, 10], 400, [[0], [1]]),
    ],
)
def test_rows_of_very_different_lengths_are_not_batched_together(lengths, budget, expected):
    assert list(by_length(lengths, budget)) == expected
