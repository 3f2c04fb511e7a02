"""Fresh puzzles of swapped objects, in a wording of our own."""

import json
import sys

import pytest

from benchmarks import shuffled
from benchmarks.shuffled import PEOPLE, Puzzle, read
from tests.conftest import ROOT

HATS = ["red hat", "old hat", "wet hat"]


def question(start: list[str], swaps: list[tuple[str, str]], person: str) -> str:
    held = [f"{name} wears the {hat}" for name, hat in zip(PEOPLE, start, strict=True)]
    first, second, third = (f"{one} and {other} swap hats." for one, other in swaps)
    return (
        f"Three friends stand in the rain: {held[0]}, {held[1]}, and {held[2]}. It rains on. "
        f"First, {first} Then, {second} Finally, {third} Once it is dry, {person} wears the"
    )


SWAPS = [("Alice", "Bob"), ("Bob", "Claire"), ("Claire", "Alice")]


def test_the_end_follows_from_the_swaps():
    puzzle = read(question(HATS, SWAPS, "Bob"), HATS[::-1])
    assert puzzle == Puzzle(tuple(HATS), tuple(map(frozenset, SWAPS)))
    # Alice and Bob: old, red, wet; Bob and Claire: old, wet, red; Claire and Alice: red, wet, old.
    assert puzzle.end() == {"Alice": "red hat", "Bob": "wet hat", "Claire": "old hat"}


def test_fresh_puzzles_are_not_in_train_and_their_answers_are_right(tmp_path, monkeypatch, capsys):
    row = {"id": "1", "question": question(HATS, SWAPS, "Bob"), "options": HATS, "answer": HATS[2]}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")
    command = ["shuffled", str(tmp_path), str(tmp_path / "out"), "--count", "150"]
    monkeypatch.setattr(sys, "argv", command)
    assert shuffled.main() == 0
    text = (tmp_path / "out/test.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    # 6 ways to start and 3 * 2 * 2 of swaps, 3 people and 2 orders of each swap's names
    assert len({row["question"] for row in rows}) == len(rows) == 150
    known = read(row["question"], HATS)
    for fresh in rows:
        puzzle = read(fresh["question"], HATS)
        person = next(p for p in PEOPLE if f"dry, {p} wears" in fresh["question"])
        assert puzzle != known and puzzle.end()[person] == fresh["answer"]
        assert tuple(fresh["options"]) == puzzle.start
        assert all(one != other for one, other in zip(puzzle.swaps, puzzle.swaps[1:], strict=False))
    assert shuffled.main() == 0
    assert (tmp_path / "out/test.jsonl").read_text() == text


def test_the_published_questions_are_read_right():
    folder = ROOT / "../shared/datasets/shuffled"
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist")
    for row in shuffled.load(folder / "train.jsonl") + shuffled.load(folder / "test.jsonl"):
        person = shuffled.ASKED.fullmatch(row["question"])["person"]
        puzzle = read(row["question"], row["options"])
        assert puzzle.end()[person] == row["answer"]
        assert tuple(row["options"]) == puzzle.start
