from hypothesis import given
from hypothesis import strategies as st

from stages.distil.questions.sampling import choose_subset

IDS = [f"train-{n}" for n in range(200)]


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 3))
def test_a_larger_subset_contains_a_smaller_one(a, b, seed):
    def chosen(limit: int) -> set[int]:
        subset = choose_subset(IDS, 1.0, limit, seed)
        return set(range(len(IDS))) if subset is None else subset

    small, large = chosen(min(a, b)), chosen(max(a, b))
    assert small <= large
    assert (len(small), len(large)) == (min(a, b), max(a, b))


def test_a_half_contains_a_quarter_and_both_limits_hold():
    quarter, half = (choose_subset(IDS, fraction, None, 0) for fraction in (0.25, 0.5))
    assert quarter < half
    assert (len(quarter), len(half)) == (50, 100)
    assert choose_subset(IDS, 0.5, 20, 0) < quarter
    assert choose_subset(IDS, 1.0, None, 0) is None


def test_another_seed_chooses_others_and_new_questions_keep_the_order():
    assert choose_subset(IDS, 0.25, None, 0) != choose_subset(IDS, 0.25, None, 1)
    more = [*IDS, *(f"more-{n}" for n in range(20))]
    old = {index for index in choose_subset(more, 1.0, 100, 0) if index < 200}
    assert old <= choose_subset(IDS, 1.0, 100, 0)
