"""Draw fresh test questions of Tracking Shuffled Objects (three people), for a claim.

The published split gives answers away: most of its test puzzles are in train too, with another
person asked. This reads a folder with train.jsonl and test.jsonl, and draws new puzzles in the
wording of the test questions: what each person holds at the start, the three swaps (no two in a row
are the same, as there) and who is asked are drawn by the seed, and a puzzle that occurs in train,
whoever is asked there, is drawn again. Options stand in the order in which Alice, Bob and Claire
hold them at the start, as there. It writes a folder with the same train.jsonl and the new
test.jsonl:

    .venv/bin/python -m benchmarks.shuffled ../shared/datasets/shuffled .cache/shuffled
"""

import argparse
import itertools
import json
import random
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from stages.distil.interface.errors import UserError, report_errors

PEOPLE = ("Alice", "Bob", "Claire")
PERSON = "|".join(PEOPLE)
# "Alice has a red ball, Bob has a blue ball, and Claire has a green ball."
HOLDS = rf"((?:{PERSON}) .*?)"
START = re.compile(rf": {HOLDS}, {HOLDS}, and {HOLDS}\. (?=[A-Z])")
SWAP = re.compile(rf"({PERSON}) and ({PERSON})(?= (?:swap|trade|switch) )")
ASKED = re.compile(rf"(?P<before>.*, )(?P<person>{PERSON})(?P<after> [a-z ]+)", re.DOTALL)
TRIES = 100  # draws per puzzle before there are said to be too few


class WordingError(UserError):
    """A question that is not worded as the public template is."""

    def __init__(self, question: str):
        """Take the question."""
        super().__init__(f"expected the wording of Tracking Shuffled Objects, found: {question}")


@dataclass(frozen=True)
class Puzzle:
    """Who holds what at the start (a thing per person), and who swaps with whom, in order."""

    start: tuple[str, ...]
    swaps: tuple[frozenset[str], ...]

    def end(self) -> dict[str, str]:
        """Return what each person holds after all swaps."""
        held = dict(zip(PEOPLE, self.start, strict=True))
        for one, other in map(sorted, self.swaps):
            held[one], held[other] = held[other], held[one]
        return held


def read(question: str, options: list[str]) -> Puzzle:
    """Return the puzzle of a question, whose things are the options; raises `WordingError`."""
    found = START.search(question)
    if not found:
        raise WordingError(question)
    held = {}
    for text in found.groups():
        things = [option for option in options if text.endswith(option)]
        if len(things) != 1:
            raise WordingError(question)
        held[text.split(" ", 1)[0]] = things[0]
    swaps = SWAP.findall(question, found.end())
    if set(held) != set(PEOPLE) or len(set(held.values())) != 3 or len(swaps) != 3:
        raise WordingError(question)
    return Puzzle(tuple(held[p] for p in PEOPLE), tuple(map(frozenset, swaps)))


def redraw(row: dict, seen: set[Puzzle], draw: random.Random) -> dict:
    """Return a row in the wording of another: a puzzle that is not among `seen`, and its answer.

    Raises `WordingError`, or `UserError` if nearly all puzzles have been seen.
    """
    question, options = row["question"], row["options"]
    read(question, options)
    for _ in range(TRIES):
        start = tuple(draw.sample(options, k=3))
        pairs = [draw.sample(PEOPLE, k=2) for _ in range(3)]
        puzzle = Puzzle(start, tuple(map(frozenset, pairs)))
        if puzzle in seen or any(a == b for a, b in itertools.pairwise(puzzle.swaps)):
            continue
        person = draw.choice(PEOPLE)
        worded = _word(question, options, start, pairs, person)
        if read(worded, options) != puzzle:
            raise WordingError(question)
        return {"question": worded, "options": list(start), "answer": puzzle.end()[person]}
    raise UserError(f"train has too many of the puzzles with {', '.join(options)}")


def _word(
    question: str, options: list[str], start: tuple[str, ...], pairs: list[list[str]], person: str
) -> str:
    found = START.search(question)
    asked = ASKED.fullmatch(question)
    if not found or not asked:
        raise WordingError(question)
    held = []
    for name, thing, text in zip(PEOPLE, start, found.groups(), strict=True):
        verb = text.split(" ", 1)[1]
        verb = next(verb.removesuffix(option) for option in options if verb.endswith(option))
        held.append(f"{name} {verb}{thing}")
    swaps = iter(pairs)
    tail = SWAP.sub(lambda _: " and ".join(next(swaps)), question[found.end() :])
    tail = ASKED.fullmatch(tail)["before"] + person + asked["after"]
    given = f": {held[0]}, {held[1]}, and {held[2]}. "
    return question[: found.start()] + given + tail


def load(path: Path) -> list[dict]:
    """Return the rows of a file of JSON lines; raises `UserError`."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected JSON lines") from None
    except ValueError as error:
        raise UserError(f"{path}: expected a question per line, in JSON: {error}") from None
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not {"question", "options"} <= row.keys():
            raise UserError(f"{path}, row {number}: expected `question` and `options`")
    return rows


def draw_test(folder: Path, out: Path, count: int, seed: int) -> None:
    """Read the folder, and write the other one; raises `UserError`."""
    train, test = (load(folder / f"{split}.jsonl") for split in ("train", "test"))
    if not test:
        raise UserError(f"{folder / 'test.jsonl'}: no questions, whose wording is needed")
    seen = {read(row["question"], row["options"]) for row in train}
    draw = random.Random(seed)
    rows: dict[str, dict] = {}  # by question
    for _ in range(TRIES * count):
        if len(rows) == count:
            break
        row = redraw(draw.choice(test), seen, draw)
        rows.setdefault(row["question"], {"id": f"fresh-{len(rows)}"} | row)
    else:
        raise UserError(f"{folder}: fewer than {count} puzzles can be drawn; lower --count")
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "train.jsonl", out / "train.jsonl")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows.values())
    (out / "test.jsonl").write_text(lines, encoding="utf-8")
    print(f"{out}: {len(train)} train questions, {len(rows)} fresh test questions")


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="with train.jsonl and test.jsonl")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--count", type=int, default=1000, help="test questions (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    given = parser.parse_args()
    return report_errors(
        "shuffled", given.debug, lambda: draw_test(given.folder, given.out, given.count, given.seed)
    )


if __name__ == "__main__":
    sys.exit(main())
