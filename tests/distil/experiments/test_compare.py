import csv
import os
import subprocess
import sys
from math import comb
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.distil.experiments.compare import changed_questions, difference
from stages.distil.interface.errors import UserError
from stages.distil.storage import tables
from tests.conftest import ROOT


def answers(only_a: int, only_b: int, both: int = 0, neither: int = 0) -> tuple[list, list]:
    rows = [(True, False)] * only_a + [(False, True)] * only_b
    rows += [(True, True)] * both + [(False, False)] * neither
    return [a for a, _ in rows], [b for _, b in rows]


@pytest.mark.parametrize(
    ("only_a", "only_b", "expected"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 2 / 2**5),
        (0, 8, 2 / 2**8),
        (3, 3, 1.0),
        (10, 2, 2 * (1 + 12 + 66) / 2**12),  # both tails of a fair coin thrown 12 times
        (121, 59, 2 * sum(comb(180, n) for n in range(60)) / 2**180),
    ],
)
def test_exact_mcnemar_of_known_cases(only_a, only_b, expected):
    result = difference(*answers(only_a, only_b, both=7, neither=9))
    assert result.p_value == pytest.approx(expected, rel=1e-9)
    assert (result.only_a, result.only_b) == (only_a, only_b)


def test_the_interval_for_many_questions_is_close_to_the_normal_one():
    a, b = answers(300, 200, 300, 200)
    result = difference(a, b)
    gains = np.array(a, float) - np.array(b, float)
    half = 1.96 * gains.std() / np.sqrt(len(gains))
    assert result.gain == pytest.approx(0.1)
    assert result.low == pytest.approx(0.1 - half, abs=0.003)
    assert result.high == pytest.approx(0.1 + half, abs=0.003)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_the_difference_is_antisymmetric(pairs):
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    forward, reverse = difference(a, b), difference(b, a)
    assert forward.gain == -reverse.gain
    assert forward.p_value == reverse.p_value
    assert (forward.a, forward.only_a) == (reverse.b, reverse.only_b)
    assert forward.low <= forward.gain <= forward.high


def predictions(right: str) -> list[dict]:
    return [
        {
            "id": f"test-{n}",
            "question": f"What is {n}, say?",
            "options": ["yes", "no"],
            "answer": "yes",
            "prediction": "yes" if mark == "1" else "no",
            "correct": mark == "1",
        }
        for n, mark in enumerate(right)
    ]


def write(folder: Path, right: str) -> None:
    tables.write_table(folder / tables.PREDICTIONS, predictions(right))


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "stages.distil.experiments.compare", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_different_questions_are_reported():
    a, b = predictions("1100"), predictions("1100")
    b[2]["answer"] = "no"
    with pytest.raises(UserError, match="row 3: A has question 'test-2'"):
        changed_questions(a, b)
    with pytest.raises(UserError, match="A has 4 questions, B 3"):
        changed_questions(a, a[:3])


def test_two_folders_are_compared(tmp_path):
    write(tmp_path / "one", "11110000")
    write(tmp_path / "two", "10010001")
    done = run(tmp_path, "one", "two")
    assert done.returncode == 0, done.stderr
    assert "A − B +0.125" in done.stdout
    assert "exact McNemar p = 1" in done.stdout
    with (tmp_path / "results/changed.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(r["id"], r["right"]) for r in rows] == [
        ("test-1", "A"),
        ("test-2", "A"),
        ("test-7", "B"),
    ]
    assert rows[0] | {"A": "yes", "B": "no"} == rows[0]


def test_revisions_are_compared_and_unknown_ones_reported(tmp_path):
    def call(*command: str) -> None:
        tool = [sys.executable, "-m", "dvc"] if command[0] == "dvc" else ["git"]
        subprocess.run([*tool, *command[1:]], cwd=tmp_path, check=True, capture_output=True)

    call("git", "init", "-q")
    call("git", "config", "user.email", "a@b.c")
    call("git", "config", "user.name", "a")
    call("dvc", "init", "-q")
    write(tmp_path, "1100")
    call("dvc", "add", "-q", str(tables.PREDICTIONS))
    call("git", "add", "-A")
    call("git", "commit", "-qm", "one")
    write(tmp_path, "1111")
    done = run(tmp_path, "HEAD", "workspace")
    assert done.returncode == 0, done.stderr
    assert "A − B -0.500" in done.stdout
    done = run(tmp_path, "nowhere", "workspace")
    assert done.returncode == 1
    assert done.stderr.startswith("compare: error: nowhere: no such folder, experiment or revisi")
    assert len(done.stderr.splitlines()) == 1
    pq.write_table(pa.table({"id": ["test-0"]}), tmp_path / tables.PREDICTIONS)
    call("dvc", "add", "-q", str(tables.PREDICTIONS))
    call("git", "commit", "-qam", "another version's columns")
    done = run(tmp_path, "HEAD", "HEAD~1")
    assert done.returncode == 1
    assert done.stderr.startswith(f"compare: error: HEAD: {tables.PREDICTIONS}: expected columns ")
    assert done.stderr.endswith("found id; repeat the run\n")
