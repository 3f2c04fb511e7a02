"""Encoded questions are those of the encoder, whoever encoded them."""

import json
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from stages.distil.encoding import files, writing
from stages.distil.encoding.files import read_asked, read_taught, read_window, training_digest
from stages.distil.encoding.writing import Job, encode_splits
from stages.distil.interface.errors import UserError
from stages.distil.interface.method import Student
from stages.distil.storage import tables
from tests.conftest import BARE
from tests.students import ROWS, TASKS, TEACHERS, asked, load, taught, write_distill

SPLITS = ("train", "validation", "test")
MAX_TOKENS, REASONED = 4, 9
FORMS = [
    {},
    {"shared_context": False},
    {"form": "after_answer"},
    {"form": "after_answer", "shared_context": False},
    {"context": 60},
    {"context": 60, "form": "after_answer", "shared_context": False},
    {"form": "before_answer"},
    {"context": 60, "form": "before_answer", "shared_context": False},
]
SCORED = [row | {"option_scores": [-1.0, -2.0] if row["options"] else None} for row in ROWS]


def many(count: int) -> list[dict]:
    """Return rows that differ."""
    return [
        row | {"id": f"{n}-{row['id']}", "question": f"{row['question']} {n}"}
        for n in range(count)
        for row in SCORED
    ]


@pytest.fixture
def encode(tmp_path, monkeypatch):
    """Encode rows as every split for a student with these settings; return what was met."""
    monkeypatch.chdir(tmp_path)

    def run(model: Path, rows=SCORED, processes=1, **settings):
        for split in SPLITS:
            write_distill(split, rows, scores=True)
        student = Student(model="tiny", **settings)
        return encode_splits(Job(model, student, tuple(TEACHERS), MAX_TOKENS, REASONED), processes)

    return run


def contents() -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(tables.ENCODED.iterdir())}


@pytest.mark.parametrize("settings", FORMS, ids=str)
def test_questions_are_read_as_they_were_encoded(encode, family, settings):
    encode(family, **settings)
    _, again = load(family, **settings)
    window = read_window()
    assert window == again.window
    whole = read_taught(window)
    assert len(whole) == len(ROWS)
    assert list(whole) == again.samples(SCORED)
    for tasks in (["answer"], ["answer", "two"], TASKS, [*TASKS, "soft_labels"]):
        assert list(read_taught(window, tasks)) == [taught(again, row, tasks) for row in SCORED]
    for split in ("validation", "test"):
        assert list(read_asked(split)) == asked(again, ROWS, "before_answer" in settings.values())


def test_rows_are_read_by_number(encode, tiny_model, monkeypatch):
    monkeypatch.setattr(files, "PART", 3)  # rows of a record batch, and of what is read at once
    encode(tiny_model, many(3))
    questions = read_asked("test")
    everything = list(questions)
    ids = [question.prompt.id for question in everything]
    assert ids == [row["id"] for row in many(3)]
    assert (questions[7], questions[-1]) == (everything[7], everything[-1])
    assert questions[3:9:2] == everything[3:9:2]
    with pytest.raises(IndexError):
        questions[len(ids)]


@pytest.mark.slow
def test_the_files_do_not_depend_on_the_number_of_processes(encode, tiny_model, monkeypatch):
    """Questions lie in several row groups, each in several parts."""
    monkeypatch.setattr(files, "PART", 3)  # the workers get parts that are cut here
    monkeypatch.setattr(tables, "ROW_GROUP", 7)
    reports, written = [], []
    for processes in (1, 2, 1):
        reports.append(encode(tiny_model, many(5), processes, context=60))
        written.append(contents())
    assert set(written[0]) == {
        "lengths.parquet",
        "test.arrow",
        "train.arrow",
        "validation.arrow",
        "window.json",
    }
    assert written[0] == written[1] == written[2]
    assert reports[0] == reports[1]
    assert reports[0][0].limits["train"].cut > 0


def test_few_questions_are_not_worth_a_second_process(encode, tiny_model, monkeypatch):
    monkeypatch.setattr(writing, "ProcessPoolExecutor", None)  # would be called
    encode(tiny_model, processes=None)
    assert list(read_asked("test"))


def test_lengths_are_counted_kind_by_kind(encode, tiny_model):
    encode(tiny_model)
    _, encoder = load(tiny_model)
    expected = []
    samples = [sample for [sample] in encoder.samples(SCORED)]
    branches = [branch for sample in samples for branch in sample.branches if not branch.score]
    for kind, lengths in {
        "context": [len(sample.context) for sample in samples],
        "answer": [len(b.target) - 1 for b in branches if b.task == "answer"],
        "rationale of one": [len(b.target) - 1 for b in branches if b.task == "one"],
        "rationale of two": [len(b.target) - 1 for b in branches if b.task == "two"],
        "salient words": [len(b.target) - 1 for b in branches if b.task == "saliency"],
    }.items():
        expected += [(kind, n, lengths.count(n)) for n in sorted(set(lengths))]
    found = tables.read_table(tables.LENGTHS)
    assert [(row["text"], row["tokens"], row["rows"]) for row in found] == expected


def test_the_digest_is_that_of_what_a_training_reads(encode, tiny_model):
    encode(tiny_model)
    first = training_digest()
    changed = [ROWS[0] | {"answer": "red"}, *ROWS[1:]]
    write_distill("test", changed)
    job = Job(tiny_model, Student(model="tiny"), tuple(TEACHERS), MAX_TOKENS, REASONED)
    encode_splits(job, 1)
    assert training_digest() == first
    for split in ("train", "validation"):
        write_distill(split, changed)
        encode_splits(job, 1)
        assert training_digest() != first
        write_distill(split, SCORED, scores=True)
    encode_splits(job, 1)
    assert training_digest() == first
    tables.write_text(files.WINDOW, json.dumps(asdict(read_window()) | {"limit": 9}))
    assert training_digest() != first


def test_what_is_missing_is_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for read in (read_window, lambda: read_asked("test"), lambda: read_taught(None)):
        with pytest.raises(UserError, match="data/encoded/.*: no such table; `dvc repro` makes it"):
            read()


def test_a_failure_leaves_the_earlier_files_and_no_new_ones(encode, tiny_model, monkeypatch):
    encode(tiny_model)
    before = contents()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(writing, "_write_lengths", fail)
    with pytest.raises(OSError, match="disk full"):
        encode(tiny_model, ROWS[:1])
    assert contents() == before
    assert [path.name for path in tables.ENCODED.parent.glob("encoded*")] == ["encoded"]


STOPPED = """
import sys, time
from pathlib import Path
from stages.distil.encoding import files, writing
from stages.distil.interface.method import Student

def stop(*_):
    print("everything else is written", flush=True)
    time.sleep(600)

files.PART = 1
writing._write_lengths = stop
writing.encode_splits(writing.Job(Path(sys.argv[1]), Student(model="tiny"), ("one",), 4, 8), 2)
"""


@pytest.mark.slow
def test_a_kill_leaves_no_process_and_no_half_written_folder(encode, tiny_model):
    for split in SPLITS:
        write_distill(split, ROWS)
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, tiny_model],
        env=BARE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout.readline() == "everything else is written\n"
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    assert not tables.ENCODED.exists()
    encode(tiny_model)
    assert [path.name for path in tables.ENCODED.parent.glob("encoded*")] == ["encoded"]
