import pytest

from stages.distil.storage.examples import Example
from stages.distil.teachers.in_context import ExampleGenerator, data_rationale

KINDS = ["apple tree", "apple pie", "steam engine", "diesel engine", "violin string", "harp string"]
POOL = [
    (Example(f"pool-{n}", "pool", f"What is a {kind}?", [], kind), f"It is a {kind}.")
    for n, kind in enumerate(KINDS)
]


def make_example(text: str, name: str = "other") -> Example:
    return Example(name, "train", text, [], "")


def chosen(strategy: str, example: Example, pool=POOL, count: int = 2, seed: int = 0) -> list[str]:
    generator = ExampleGenerator(pool, strategy, count, seed)
    return [solved.id for solved, _ in generator.choose(example)]


def test_none_shows_no_examples():
    assert chosen("none", make_example("What?")) == []


def test_fixed_shows_the_same_examples_for_all_questions():
    for text in "ab":
        assert chosen("fixed", make_example(text)) == ["pool-0", "pool-1"]


def test_random_depends_only_on_seed_and_question():
    examples = {name: make_example("What?", name) for name in "abcdefgh"}
    draws = {name: chosen("random", example) for name, example in examples.items()}
    assert len({tuple(draw) for draw in draws.values()}) > 3
    assert draws == {name: chosen("random", examples[name]) for name in reversed("abcdefgh")}
    assert draws["a"] != chosen("random", examples["a"], seed=1)
    assert all(len(set(draw)) == 2 for draw in draws.values())


def test_similar_shows_the_nearest_last():
    assert chosen("similar", make_example("Which tree bears an apple?")) == ["pool-1", "pool-0"]
    assert set(chosen("similar", make_example("How does an ENGINE work?"))) == {"pool-2", "pool-3"}


@pytest.mark.parametrize("strategy", ["random", "fixed", "similar"])
def test_a_question_with_the_same_id_or_text_is_never_shown(strategy):
    same_id = make_example("Something else", "pool-0")
    same_text = make_example("  what is a APPLE tree? ")
    for example in (same_id, same_text):
        assert "pool-0" not in chosen(strategy, example, count=5)
        assert len(chosen(strategy, example, count=5)) == 5


def test_the_teachers_own_rationale_takes_precedence():
    example = Example("1", "pool", "q", [], "a", {"x": [" "], "y": ["of y"], "z": ["of z"]})
    assert data_rationale(example, "z") == "of z"
    assert data_rationale(example, "x") == "of y"
    assert data_rationale(Example("1", "pool", "q", [], "a"), "x") == ""
