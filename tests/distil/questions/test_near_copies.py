"""Near copies: exactly the questions that are similar, by a slow count."""

import json
import random

import pytest

from stages.distil.questions.near_copies import NearCopies, _runs
from tests.conftest import ROOT

SHUFFLED = ROOT.parent / "shared/datasets/shuffled"
FULLWIDTH_FIRST = "\uff26\uff49\uff52\uff53\uff54"
SWAPS = (
    "Ann, Bea and Cem hold a ball each: Ann a red ball, Bea a green ball, Cem a blue ball. First, "
    "Ann and Cem swap their balls. Then, Bea and Ann swap their balls. At last, Cem and Bea swap "
    "their balls. Which ball does {} hold at the end of it all?"
)


def row(question: str, *options: str, name: str = "0", split: str = "test") -> dict:
    return {"id": name, "split": split, "question": question, "options": list(options)}


def similarity(one: str, other: str) -> float:
    return NearCopies([row(one)], 1e-9).find(row(other)).get(0, 0.0)


def test_the_same_puzzle_about_another_person_is_a_near_copy():
    copies = NearCopies([row(SWAPS.format("Ann"), split="validation", name="a")], 0.85)
    assert copies.ids == [("validation", "a")]
    (found,) = copies.find(row(SWAPS.format("Bea"))).items()
    assert found == (0, pytest.approx(1 - 6 / (len(_runs(row(SWAPS.format("Ann")))) + 3)))
    assert not copies.find(row("Who holds the red ball at the end of it all?"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("First, Ann and Bea swap.", "first ann  and bea: SWAP"),
        (f"{FULLWIDTH_FIRST} Ann and Bea swap", "First Ann and Bea swap"),
        ("Fi\u00adrst Ann and Bea swap", "First Ann and Bea swap"),
        ("\u2191 \u2193 \u2191", "\u2191 \u2193 \u2191"),
        ("7", "7"),
    ],
)
def test_case_signs_and_code_points_do_not_count(one, other):
    assert similarity(one, other) == 1


def test_scripts_without_spaces_are_compared_by_characters():
    one = "\u5c0f\u660e\u6709\u4e09\u4e2a\u82f9\u679c\uff0c\u5403\u4e86\u4e00\u4e2a"
    other = one.replace("\u5c0f\u660e", "\u5c0f\u7ea2")
    assert 0.5 < similarity(one, other) < 1


def test_other_options_make_another_question():
    one = row("Which of these is a mammal?", "the blue whale", "the white shark", "the red cod")
    other = row("Which of these is a mammal?", "a grey wolf", "an adder", "a song thrush")
    assert not NearCopies([one], 0.85).find(other)
    assert NearCopies([one], 0.85).find(one | {"options": one["options"][::-1]}) == {0: 1.0}


def test_a_template_makes_no_copies():
    template = (
        "Read the sum with care, work it out step by step, and write nothing but the result: "
    )
    copies = NearCopies([row(f"{template}{n} times {n + 7}") for n in range(40)], 0.85)
    assert copies.find(row(f"{template}3 times 10")) == {3: 1.0}
    assert not copies.find(row(f"{template}3 times 11"))
    assert not copies.find(row(template))


@pytest.mark.parametrize("threshold", [0.05, 0.29, 0.5, 0.55, 0.7, 0.85, 1.0])
def test_none_is_missed(threshold):
    draw = random.Random(0)
    rows = [row(" ".join(draw.choices("abcd", k=draw.randint(1, 12)))) for _ in range(150)]
    copies = NearCopies(rows[:100], threshold)
    sets = [_runs(each) - copies._template for each in rows]
    for each, runs in zip(rows[100:], sets[100:], strict=True):
        shares = {n: len(runs & s) / len(runs | s) for n, s in enumerate(sets[:100]) if runs | s}
        assert copies.find(each) == {n: s for n, s in shares.items() if s >= threshold and s}


@pytest.mark.skipif(not SHUFFLED.is_dir(), reason="the shared data sets are not here")
def test_puzzles_asked_about_another_person_are_found_in_a_published_set():
    read = {}
    for split in ("train", "test"):
        lines = (SHUFFLED / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        read[split] = [row(v["question"], *v["options"]) for v in map(json.loads, lines)]
    puzzles = {each["question"].partition("At the end")[0] for each in read["train"]}
    same = [each["question"].partition("At the end")[0] in puzzles for each in read["test"]]
    copies = NearCopies(read["test"], 0.85)
    found = {place for each in read["train"] for place in copies.find(each)}
    # The six others are the same puzzle too, with the two people of each swap the other way round.
    assert sum(same) == 196
    assert {place for place, copied in enumerate(same) if copied} <= found
    assert len(found) == 202
