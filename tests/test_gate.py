"""The quality gate on published rationales."""

import pytest

from benchmarks.gate import PALM, authors_verdict, statuses, value
from stages.distil.interface.parameters import load_parameters
from stages.distil.storage.examples import Example
from tests.conftest import PARAMS, ROOT


@pytest.mark.parametrize("name", ["cqa", "svamp-rationales", "esnli-rationales"])
def test_the_gate_agrees_with_the_authors_reading(name):
    data = load_parameters(PARAMS).datasets[name]
    data = data.model_copy(update={"folder": ROOT / data.folder})
    if not data.folder.is_dir():
        pytest.skip(f"{data.folder} does not exist")
    counts, agreement, _ = statuses(data)
    assert agreement.total() > 0.9 * counts[PALM].total()
    assert agreement[True] > 0.97 * agreement.total()


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("It rolls. So the answer is (b) a ball.", True),
        ("So the answer is (a) a box.", False),
        ("It is a ball.", None),
    ],
)
def test_the_authors_read_the_label_at_the_end(text, verdict):
    example = Example("1", "train", "Which?", ["a box", "a ball"], "a ball")
    assert authors_verdict(text, example) is verdict


@pytest.mark.parametrize(
    ("label", "verdict"),
    [("(84.0 / 2)", True), ("42", True), ("84 / 4", False), ("84 / 0", None), ("many", None)],
)
def test_a_number_is_compared_by_value(label, verdict):
    example = Example("1", "train", "How many?", [], "42")
    assert authors_verdict(f"The answer is {label}.", example) is verdict


def test_only_arithmetic_is_computed():
    assert value("-(2 * 3) + 1,000") == 994
    with pytest.raises(ValueError, match="open"):
        value("open('a')")
