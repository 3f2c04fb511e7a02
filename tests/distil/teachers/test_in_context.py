import pytest

from stages.distil.storage.examples import Example
from stages.distil.teachers.in_context import ExampleGenerator, data_rationale

KINDS = ["apple tree", "apple pie", "steam engine", "diesel engine", "violin string", "harp string"]
POOL = [
    (Example(f"pool-{n}", "pool", f"What is a {kind}?", [], kind), f"It is a {kind}.")
    for n, kind in enumerate(KINDS)
]


def asked(text: str, name: str = "asked") -> Example:
    return Example(name, "train", text, [], "")


def chosen(how: str, example: Example, pool=POOL, count: int = 2, seed: int = 0) -> list[str]:
    generator = ExampleGenerator(pool, how, count, seed)
    return [solved.id for solved, _ in generator.choose(example)]


def test_none_shows_none():
    assert chosen("none", asked("What?")) == []


def test_fixed_shows_the_same_ones_to_all():
    assert chosen("fixed", asked("a")) == chosen("fixed", asked("b")) == ["pool-0", "pool-1"]


def test_random_hangs_on_seed_and_question_alone():
    draws = {name: chosen("random", asked("What?", name)) for name in "abcdefgh"}
    assert len({tuple(draw) for draw in draws.values()}) > 3
    assert draws == {name: chosen("random", asked("What?", name)) for name in reversed("abcdefgh")}
    assert draws["a"] != chosen("random", asked("What?", "a"), seed=1)
    assert all(len(set(draw)) == 2 for draw in draws.values())


def test_similar_shows_the_nearest_last():
    assert chosen("similar", asked("Which tree bears an apple?")) == ["pool-1", "pool-0"]
    assert set(chosen("similar", asked("How does an ENGINE work?"))) == {"pool-2", "pool-3"}


@pytest.mark.parametrize("how", ["random", "fixed", "similar"])
def test_the_question_itself_and_its_like_are_never_shown(how):
    same_id = asked("Something else", "pool-0")
    same_text = asked("  what is a APPLE tree? ")
    for example in (same_id, same_text):
        assert "pool-0" not in chosen(how, example, count=5)
        assert len(chosen(how, example, count=5)) == 5


def test_the_teachers_own_rationale_comes_before_anothers():
    example = Example("1", "pool", "q", [], "a", {"x": " ", "y": "of y", "z": "of z"})
    assert data_rationale(example, "z") == "of z"
    assert data_rationale(example, "x") == "of y"
    assert data_rationale(Example("1", "pool", "q", [], "a"), "x") == ""
