"""What the report reads of large tables."""

import statistics
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.distil.reporting.reading import quantiles


@given(st.lists(st.integers(0, 9), min_size=2, max_size=40).filter(any))
def test_quantiles_of_counts_are_those_of_the_values(values):
    found = quantiles(Counter(values))
    assert found["median"] == statistics.median(values)
    assert found["most"] == pytest.approx(statistics.quantiles(values, n=10)[-1], rel=1e-15)


def test_few_values_have_quantiles_too():
    assert quantiles(Counter([7])) == {"median": 7, "most": 7}
    assert quantiles(Counter([0, 0])) == quantiles(Counter()) == {}
