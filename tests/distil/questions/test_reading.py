"""Files of every format, hub folders, generated questions."""

import bz2
import codecs
import csv
import gzip
import io
import json
import os
import time
import tracemalloc
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stages.distil.interface.catalogue import Files, FileSizes, Gym, Hub
from stages.distil.interface.errors import UserError
from stages.distil.interface.parameters import load_parameters
from stages.distil.questions import delimited, files, hub
from stages.distil.questions.fields import QuestionReader
from stages.distil.questions.reading import data_set_content, read, warning
from stages.distil.storage import tables
from stages.distil.storage.examples import Example, Rejected
from tests.conftest import ROOT, question, write_jsonl
from tests.hub import REVISION, serve

ROWS = [{"id": str(n), "question": f"Größe {n}?\nTell", "answer": f"a{n}"} for n in range(5)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def values(folder: Path, **changes) -> list:
    records = list(files.read(Files(source="files", folder=folder, **changes), "train"))
    assert not any(record.error for record in records)
    return [record.value for record in records]


def csv_bytes(rows: list[dict], delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet_bytes(rows: list[dict]) -> bytes:
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), table)
    return table.getvalue()


def test_every_format_gives_the_same_records(tmp_path):
    writers = {
        "train.jsonl": lambda path: path.write_bytes(LINES),
        "train.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES)),
        "train.jsonl.bz2": lambda path: path.write_bytes(bz2.compress(LINES, 1)),
        "train.jsonl.zst": lambda path: path.write_bytes(
            pa.Codec("zstd").compress(LINES, asbytes=True)
        ),
        "train.json": lambda path: path.write_text(json.dumps(ROWS)),
        "train.csv": lambda path: path.write_bytes(csv_bytes(ROWS)),
        "train.tsv": lambda path: path.write_bytes(csv_bytes(ROWS, "\t")),
        "train.parquet": lambda path: path.write_bytes(parquet_bytes(ROWS)),
        "train.csv.gz": lambda path: path.write_bytes(gzip.compress(csv_bytes(ROWS))),
        "train.tsv.bz2": lambda path: path.write_bytes(bz2.compress(csv_bytes(ROWS, "\t"))),
        "train.parquet.gz": lambda path: path.write_bytes(gzip.compress(parquet_bytes(ROWS))),
        "train-two-members.jsonl.gz": lambda path: path.write_bytes(
            gzip.compress(LINES[:50]) + gzip.compress(LINES[50:])
        ),
        "TRAIN.CSV": lambda path: path.write_bytes(csv_bytes(ROWS)),
        "Train.TSV": lambda path: path.write_bytes(csv_bytes(ROWS, "\t")),
        "train.JSONL.GZ": lambda path: path.write_bytes(gzip.compress(LINES)),
        "TRAIN-0.Parquet": lambda path: path.write_bytes(parquet_bytes(ROWS)),
        "train-semicolons.csv": lambda path: path.write_bytes(csv_bytes(ROWS, ";")),
        "train-tabs.csv": lambda path: path.write_bytes(csv_bytes(ROWS, "\t")),
        "train-commas.tsv": lambda path: path.write_bytes(csv_bytes(ROWS, ",")),
        "train-blank-line-first.csv": lambda path: path.write_bytes(b"\r\n" + csv_bytes(ROWS)),
        "train-byte-order-mark.jsonl": lambda path: path.write_bytes(b"\xef\xbb\xbf" + LINES),
    }
    for name, write in writers.items():
        folder = tmp_path / name
        folder.mkdir()
        write(folder / name)
        assert values(folder) == ROWS, name


def test_shards_are_read_in_the_order_of_their_names(tmp_path):
    for order in ([0, 1, 2], [2, 0, 1]):
        folder = tmp_path / "".join(map(str, order))
        (folder / "train").mkdir(parents=True)
        for n in order:
            (folder / f"train/part-{n}.jsonl").write_text(json.dumps(ROWS[n]) + "\n")
        (folder / "train/.hidden").write_text("x")
        assert values(folder) == ROWS[:3]


def test_patterns_name_the_files_of_a_split(tmp_path):
    (tmp_path / "a.csv").write_text("id,question,answer\n1,q,a\n")
    (tmp_path / "b.csv").write_text("id,question,answer\n2,q,a\n")
    assert [v["id"] for v in values(tmp_path, splits={"train": "*.csv"})] == ["1", "2"]
    assert [v["id"] for v in values(tmp_path, splits={"train": ["b.csv"]})] == ["2"]


def test_the_path_of_the_rows_in_a_json_file_can_be_set(tmp_path):
    (tmp_path / "train.json").write_text(json.dumps({"data": {"questions": ROWS}}))
    assert values(tmp_path, rows="data.questions") == ROWS
    with pytest.raises(
        UserError, match=r"train.json: its content is not a list of rows; set datasets"
    ):
        values(tmp_path)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ('[{"question": "Who', "not JSON: .*; replace it with a whole copy"),
        ('[{"question": "a"}]\n[]', "not JSON: Extra data.*; replace it with a whole copy"),
    ],
)
def test_a_broken_json_file_says_what_to_do(tmp_path, text, advice):
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(UserError, match=advice):
        values(tmp_path)


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_json_lines_in_a_json_file_are_read_as_such(tmp_path, mark):
    (tmp_path / "train.json").write_bytes(mark + LINES)
    assert values(tmp_path) == ROWS
    (tmp_path / "train.json").write_bytes(LINES + b'{"id": ')
    *records, last = files.read(Files(source="files", folder=tmp_path), "train")
    assert [record.value for record in records] == ROWS
    assert (last.row, last.error[:8]) == (6, "not JSON")


def published(folder: Path, texts: dict[str, list], **changes) -> Files:
    """Write twelve questions and files of texts, as authors publish them."""
    rows = [{"question": f"What is {n}?", "answer": f"a{n}"} for n in range(12)]
    (folder / "own_train.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "llm").mkdir()
    for name, written in texts.items():
        (folder / "llm" / name).write_text(json.dumps(written))
    patterns = {"files": "llm/train_*.json", "until": "Q:"} | changes
    return Files(
        source="files",
        folder=folder,
        splits={"train": "own_train.json"},
        fields={"id": None},
        rationale_files={"palm": patterns},
    )


def explained(settings: Files) -> list[dict[str, list[str]]]:
    reader = QuestionReader(settings, 1_000, Counter())
    read = list(reader.accept(files.read(settings, "train")))
    assert not [row.reason for row in read if isinstance(row, Rejected)]
    return [example.rationales for example in read]


def test_texts_of_other_files_belong_to_the_rows_in_order(tmp_path):
    texts = [f"It is so. The answer is (a) a{n}.\n\nQ: Next? A: It is b." for n in range(12)]
    parts = {f"train_{n}.json": [text] for n, text in enumerate(texts)}
    found = explained(published(tmp_path, parts))
    assert found == [{"palm": [f"It is so. The answer is (a) a{n}."]} for n in range(12)]


def test_a_rationale_can_stand_between_words(tmp_path):
    texts = [f"one {n} Q: What is {n}? other rationale: two {n}" for n in range(11)] + ["none"]
    settings = published(tmp_path, {"train_0.json": texts}, after="other rationale:", until=None)
    assert explained(settings) == [{"palm": [f"two {n}"]} for n in range(11)] + [{"palm": [""]}]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a"] * 11, r"after 11, there are more train rows than in llm/train_\*.json"),
        (["a"] * 13, "after 12, there are more texts than in train"),
        ([], "after 0, there are more train rows"),
        ([["a"]] * 12, "train_0.json, row 1: expected a text, found list"),
        ({"a": 1}, "its content is not a list of rows"),
    ],
)
def test_texts_that_are_not_one_for_each_row_are_refused(tmp_path, texts, message):
    with pytest.raises(UserError, match=message):
        explained(published(tmp_path, {"train_0.json": texts}))


def test_files_of_texts_are_part_of_the_content(tmp_path):
    settings = published(tmp_path, {"train_0.json": ["a"] * 12})
    before = data_set_content(settings)
    (tmp_path / "llm/train_0.json").write_text(json.dumps(["b"] * 12))
    assert data_set_content(settings) != before
    (tmp_path / "llm/train_0.json").unlink()
    with pytest.raises(UserError, match=r"no such file; set datasets.*rationale_files.palm.files"):
        explained(settings)


REPEATED_COLUMN = parquet_bytes([{"answ1": 1, "answ2": 2}]).replace(b"answ2", b"answ1")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.jsonl.gz", gzip.compress(LINES, mtime=0)[:-20], "cannot be read to its end"),
        ("train.jsonl.gz", b"no gzip", "its content is not that of a .gz file"),
        ("train.jsonl.bz2", b"no bzip", "cannot be read to its end"),
        ("train.parquet", b"PAR1", "cannot be read to its end"),
        ("train.csv", b"a,a\n1,2\n", "no valid header"),
        ("train.json", b"{", "not JSON"),
        ("train.docx", b"", "unknown format '.docx'"),
        ("train.txt", b"a\tb\n", "unknown format '.txt'"),
        ("train.csv", b'q,"a\n1,2\n', "no valid header in its first line: not CSV"),
        ("train.csv", "é,a\n1,2\n".encode("latin-1"), "no valid header in its first line: not UTF"),
        ("train.csv", "q,a\n1,2\n".encode("utf-16-le"), "no valid header"),
        ("train.csv", "q,a\n1,2\n".encode("utf-16"), "found the byte-order mark of UTF-16"),
        ("train.tsv.gz", gzip.compress("q".encode("utf-16"), mtime=0), "expected UTF-8, found"),
        ("train.json", "[]".encode("utf-16"), "found the byte-order mark of UTF-16"),
        ("train.json", "[]".encode("utf-32"), "found the byte-order mark of UTF-16 or UTF-32"),
        ("train.json", '["é"]'.encode("latin-1"), "not UTF-8 at byte 3; convert it, such as with"),
        ("train.jsonl", codecs.BOM_UTF16_BE + "{}".encode("utf-16-be"), "expected UTF-8, found"),
        ("train.json", b"", "not JSON"),
        ("train.parquet", b"", "cannot be read to its end"),
        ("train.parquet", REPEATED_COLUMN, "a column name is repeated"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        values(tmp_path)
    assert name in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_link_to_a_missing_file_is_named(tmp_path):
    (tmp_path / "train-0.jsonl").write_bytes(LINES)
    (tmp_path / "train-1.jsonl").symlink_to(tmp_path / "elsewhere.jsonl")
    with pytest.raises(UserError, match=r"train-1\.jsonl: cannot be read"):
        values(tmp_path)


@pytest.mark.parametrize("name", ["train.jsonl", "train.csv", "train.json", "train.parquet"])
def test_a_pipe_or_a_device_is_no_file(tmp_path, name):
    os.mkfifo(tmp_path / name)  # reading it would wait for ever
    with pytest.raises(UserError, match=f"{name}: expected a file, found a device, pipe or socket"):
        values(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(UserError, match=f"{name}: expected a file, found a device, pipe or socket"):
        values(tmp_path)


TEXT = b"a" * 2**20


def test_a_file_that_unpacks_to_one_long_row_is_refused_before_it_is_read(tmp_path):
    with gzip.open(tmp_path / "train.jsonl.gz", "wb") as file:
        file.write(b'{"id": "1", "question": "')
        for _ in range(64):
            file.write(TEXT)
    tracemalloc.start()
    with pytest.raises(UserError, match=r"train\.jsonl\.gz, row 1: a row is longer than 16 MiB"):
        values(tmp_path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 3 * delimited.LONGEST_ROW


def test_a_file_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "UNPACKED", 10_000)
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(b"\n" * 10**6))
    with pytest.raises(UserError, match="it unpacks to more than 200 times its size"):
        values(tmp_path)


def test_a_json_file_is_read_up_to_a_limit(tmp_path, monkeypatch):
    (tmp_path / "train.json.gz").write_bytes(gzip.compress(json.dumps(ROWS).encode()))
    assert values(tmp_path) == ROWS
    monkeypatch.setattr(files, "LONGEST_JSON", 100)
    with pytest.raises(UserError, match=r"train\.json\.gz: more than .* convert it to JSON lines"):
        values(tmp_path)


def test_a_parquet_file_of_huge_rows_is_refused_before_it_is_read(tmp_path):
    table = pa.table({"id": ["1"], "question": ["a" * 17 * 2**20]})
    pq.write_table(table, tmp_path / "train.parquet", compression="zstd")
    with pytest.raises(UserError, match=r"train\.parquet: a row is longer than 16 MiB"):
        values(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.jsonl", gzip.compress(LINES), "that of a .gz file; add .gz to its name"),
        ("train.csv", bz2.compress(LINES), "that of a .bz2 file; add .bz2"),
        ("train.jsonl.gz", LINES, "not that of a .gz file; .* take .gz off its name"),
        ("train.jsonl.gz", bz2.compress(LINES), "that of a .bz2 file"),
        ("train.json", parquet_bytes(ROWS), "that of a .parquet file; name it .parquet"),
        ("train.jsonl", b"PK\x03\x04 a zip archive", "that of a .zip file; unpack it"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: its content is {message}"):
        values(tmp_path)


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_a_key_that_occurs_twice_costs_its_row_only_where_it_is_used(tmp_path, kind):
    rows = [
        '{"id": "1", "question": "Who?", "answer": "a", "answer": "b"}',
        '{"id": "2", "question": "What?", "answer": "a", "note": {"x": 1, "x": 2}}',
        f'{{"id": "3", "question": "When?", "answer": "a", "note": {"9" * 5000}}}',
        f'{{"id": "4", "question": "Where?", "answer": {"9" * 5000}}}',
    ]
    text = f"[{', '.join(rows)}]" if kind == "json" else "\n".join(rows)
    (tmp_path / f"train.{kind}").write_text(text)
    data_set = Files(source="files", folder=tmp_path)
    one, two, three, four = QuestionReader(data_set, 1_000, Counter()).accept(
        files.read(data_set, "train")
    )
    assert (two.id, three.id) == ("2", "3")
    assert one.reason == "key 'answer' occurs twice in an object"
    assert one.text == rows[0]
    assert four.reason == "answer: a number of 5,000 digits"


@pytest.mark.parametrize("pattern", ["/data/train.csv", ""])
def test_a_pattern_that_is_not_relative_is_named(tmp_path, pattern):
    with pytest.raises(UserError, match=r"splits\.train: expected patterns relative to"):
        values(tmp_path, splits={"train": pattern})


def test_a_folder_named_like_a_file_is_read_as_shards(tmp_path):
    (tmp_path / "train.jsonl").mkdir()
    with pytest.raises(UserError, match=r"train/\*\*/\*: no such file"):
        values(tmp_path)
    (tmp_path / "train.jsonl/part-0.json").write_text(json.dumps(ROWS))
    assert values(tmp_path) == ROWS


def wrong_texts(bad: list[int], values: list[str]) -> pa.Array:
    """A column of texts, some of them with a byte that is not UTF-8."""
    raw = [text.encode() + b"\xe9" * (n in bad) for n, text in enumerate(values)]
    return pa.array(raw, pa.binary()).view(pa.string())


def mixed_table() -> pa.Table:
    """Rows 2 to 4 have a wrong text in a used field; rows 5 and 6 have a fault in another one."""
    numbers = range(8)
    return pa.table(
        {
            "id": [f"i{n}" for n in numbers],
            "question": wrong_texts([1], [f"Which is {n}?" for n in numbers]),
            "options": pa.ListArray.from_arrays(
                pa.array(range(0, 17, 2), pa.int32()), wrong_texts([4], ["x", "y"] * 8)
            ),
            "more": pa.StructArray.from_arrays([wrong_texts([3], ["x"] * 8)], names=["answer"]),
            "note": wrong_texts([4], ["fine"] * 8),
            "time": pa.array([10**14 if n == 5 else 0 for n in numbers], pa.timestamp("s")),
        }
    )


@pytest.mark.parametrize("source", [Files, Hub])
@pytest.mark.parametrize("batch", [2, 1024])
def test_only_rows_with_a_wrong_text_in_a_used_field_are_refused(
    tmp_path, monkeypatch, source, batch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "BATCH", batch)
    pq.write_table(mixed_table(), tmp_path / "test.parquet")
    data = source(
        source="files" if source is Files else "hub",
        folder=tmp_path,
        fields={"answer": "more.answer"},
    )
    questions = QuestionReader(data, 1_000, Counter())
    reader = files if source is Files else hub
    rows = list(questions.accept(reader.read(data, "test")))
    refused = [(row.row, row.reason) for row in rows if isinstance(row, Rejected)]
    assert refused == [
        (2, "question: not UTF-8 at byte 12"),
        (3, "options: not UTF-8 at byte 2"),
        (4, "more.answer: not UTF-8 at byte 2"),
    ]
    assert [row.id for row in rows if isinstance(row, Example)] == ["i0", "i4", "i5", "i6", "i7"]
    assert "Which is 1?\ufffd" in rows[1].text


@given(st.lists(st.binary(max_size=40).filter(lambda b: b.strip()), max_size=8))
@settings(max_examples=150)
def test_every_line_is_accepted_or_refused(tmp_path_factory, lines):
    folder = tmp_path_factory.mktemp("lines")
    lines = [line.replace(b"\n", b" ") for line in lines]
    # Refused as UTF-16, or as a file of another kind.
    assume(not b"\n".join(lines).startswith((b"\xff\xfe", b"\xfe\xff", *files.CONTENTS)))
    content = [line for line in lines if line.strip()]
    (folder / "train.jsonl").write_bytes(b"\n".join(lines))
    records = list(files.read(Files(source="files", folder=folder), "train"))
    bom = bool(content) and content[0] == b"\xef\xbb\xbf"
    assert len(records) == len(content) - bom


def write_train_and_test(tmp_path: Path) -> Path:
    return write_jsonl(
        tmp_path / "mine",
        train=[question(n) for n in range(8)],
        test=[question(n, "test") for n in range(3)],
    )


def test_validation_can_be_held_out_of_train(tmp_path):
    data = Files(source="files", folder=write_train_and_test(tmp_path), hold_out=3)
    examples = [row for row in read(data, 0, 1_000, Counter()) if isinstance(row, Example)]
    assert Counter(row.split for row in examples) == {"test": 3, "validation": 3, "train": 5}
    assert len({row.id for row in examples}) == 11


def drawn(folder: Path, seed: int = 0, **changes) -> dict[str, list[str]]:
    """The ids of each split, in order."""
    data = Files(source="files", folder=folder, **changes)
    ids: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for row in read(data, seed, 1_000, Counter()):
        assert isinstance(row, Example), row
        ids[row.split].append(row.id)
    return ids


def test_hold_out_and_sizes_are_drawn_from_the_whole_of_a_sorted_file(tmp_path):
    """The answers are in the order of the file, so its start has a single one."""
    folder = tmp_path / "mine"
    of = {split: [question(n, split) for n in range(300)] for split in ("train", "test")}
    for rows in of.values():
        rows.sort(key=lambda row: row["answer"])
    write_jsonl(folder, **of)
    answers = {row["id"]: row["answer"] for rows in of.values() for row in rows}
    order = {row["id"]: n for rows in of.values() for n, row in enumerate(rows)}
    ids = drawn(folder, hold_out=60, sizes={"train": 90, "test": 60})
    assert {split: len(names) for split, names in ids.items()} == {
        "train": 90,
        "validation": 60,
        "test": 60,
    }
    assert not set(ids["train"]) & set(ids["validation"])
    for names in ids.values():
        assert names == sorted(names, key=order.__getitem__)
        counts = Counter(answers[name] for name in names)
        assert len(counts) == 3 and min(counts.values()) > len(names) / 5
    assert drawn(folder, hold_out=60, sizes={"train": 90, "test": 60}) == ids
    assert drawn(folder, 1, hold_out=60, sizes={"test": 60})["test"] != ids["test"]
    larger = drawn(folder, hold_out=60, sizes={"train": 120, "test": 70})
    assert all(set(ids[split]) <= set(larger[split]) for split in ids)


def test_of_a_single_file_validation_and_test_are_drawn(tmp_path):
    folder = write_jsonl(tmp_path / "mine", balls=[question(n) for n in range(60)])
    alone = {"splits": {"train": "balls.jsonl"}}
    ids = drawn(folder, hold_out={"validation": 10, "test": 20}, **alone)
    assert [len(ids[split]) for split in ("train", "validation", "test")] == [30, 10, 20]
    assert len({name for names in ids.values() for name in names}) == 60
    # Another number of validation questions leaves test as it is.
    larger = drawn(folder, hold_out={"validation": 15, "test": 20}, **alone)
    assert larger["test"] == ids["test"]
    assert set(ids["validation"]) < set(larger["validation"])


def test_a_number_to_hold_out_is_that_of_validation(tmp_path):
    folder = write_train_and_test(tmp_path)
    assert drawn(folder, hold_out=3) == drawn(folder, hold_out={"validation": 3})


def test_more_questions_than_there_are_can_be_asked_for(tmp_path):
    folder = write_train_and_test(tmp_path)
    ids = drawn(folder, hold_out=99, sizes={"test": 99})
    assert [len(ids[split]) for split in ("train", "validation", "test")] == [0, 8, 3]


def test_questions_that_are_not_drawn_are_counted(tmp_path):
    folder = write_train_and_test(tmp_path)
    tally: Counter[str] = Counter()
    data = Files(source="files", folder=folder, hold_out=2, sizes={"train": 5, "test": 1})
    assert len(list(read(data, 0, 1_000, tally))) == 8
    assert tally["not drawn"] == 3


def test_a_local_folder_in_the_hubs_format_is_read(tmp_path):
    folder = write_train_and_test(tmp_path)
    data = Hub(source="hub", folder=folder, hold_out=2, sizes={"test": 2})
    examples = list(read(data, 0, 1_000, Counter()))
    assert Counter(row.split for row in examples) == {"test": 2, "validation": 2, "train": 6}
    number = int(examples[0].id.removeprefix("test-"))
    assert examples[0].question == question(number, "test")["question"]
    assert examples[0].rationales["one"][0].startswith(f"Ball {number} of test is")


def test_a_missing_split_of_a_hub_data_set_is_named(tmp_path):
    data = Hub(source="hub", folder=write_train_and_test(tmp_path))
    with pytest.raises(UserError, match=r"split 'validation'"):
        list(read(data, 0, 1_000, Counter()))


def test_an_unreachable_hub_is_a_one_line_error(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the hub client's tries
    data = Hub(source="hub", id="nobody/nothing", revision="0" * 40)
    with pytest.raises(UserError, match="cannot load data set nobody/nothing"):
        list(read(data, 0, 1_000, Counter()))


SIZES = {"train": 12, "validation": 4, "test": 5, "pool": 3}
needs_gym = pytest.mark.skipif(
    find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed; `make gym` adds it"
)


@needs_gym
def test_only_a_task_with_few_answers_gets_options():
    gym = {"source": "reasoning-gym", "sizes": SIZES}
    closed = list(read(Gym(task="syllogism", **gym), 0, 1_000, Counter()))
    assert {tuple(row.options) for row in closed} == {("No", "Yes")}
    free = list(read(Gym(task="chain_sum", **gym), 0, 1_000, Counter()))
    assert {tuple(row.options) for row in free} == {()}
    for rows in (closed, free):
        assert Counter(row.split for row in rows) == SIZES
        assert len({row.question for row in rows}) == len(rows)


@needs_gym
def test_the_seed_determines_the_questions_of_a_task():
    gym = Gym(source="reasoning-gym", task="chain_sum", sizes=SIZES, settings={"max_terms": 3})
    first, again, other = (list(read(gym, seed, 1_000, Counter())) for seed in (0, 0, 1))
    assert first == again != other


@needs_gym
def test_wrong_tasks_and_settings_are_named():
    gym = {"source": "reasoning-gym", "sizes": SIZES}
    with pytest.raises(UserError, match="unknown task 'sums' of reasoning-gym"):
        list(read(Gym(task="sums", **gym), 0, 1_000, Counter()))
    with pytest.raises(UserError, match="settings of chain_sum"):
        list(read(Gym(task="chain_sum", settings={"terms": 3}, **gym), 0, 1_000, Counter()))


def test_a_task_with_wrong_labels_has_a_warning():
    gym = {"source": "reasoning-gym", "sizes": SIZES}
    assert "65 of 400" in warning(Gym(task="family_relationships", **gym))
    assert warning(Gym(task="chain_sum", **gym)) is None


def test_a_hub_data_set_is_read_at_its_revision(tmp_path, monkeypatch, write_params, run_stage):
    """The catalogue's OpenBookQA, from a local server with the Hub's protocol."""
    files = {"README.md": CARD.encode()}
    for split, count in (("train", 3), ("validation", 1), ("test", 2)):
        rows = [
            {
                "id": f"{split}-{n}",
                "question_stem": f"Which is {split} {n}?",
                "choices": {"text": ["yes", "no"], "label": ["A", "B"]},
                "answerKey": "B",
            }
            for n in range(count)
        ]
        files[f"main/{split}-00000-of-00001.parquet"] = parquet_bytes(rows)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serve({"datasets/allenai/openbookqa": files}) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        write_params({"data/name": "openbookqa", "datasets/openbookqa/revision": REVISION})
        done = run_stage("prepare", warm=False)
        assert done.returncode == 0, done.stderr
        rows = tables.read_table(tmp_path / tables.EXAMPLES)
        counts = Counter(row["split"] for row in rows)
        assert counts == {"train": 3, "validation": 1, "test": 2, "pool": 3}
        assert rows[0]["question"] == "Which is train 0?"
        assert {row["answer"] for row in rows} == {"no"}
        write_params({"datasets/openbookqa/revision": "f" * 40})
        done = run_stage("prepare", warm=False)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()[-1:]
    assert "cannot load data set allenai/openbookqa" in line
    assert "hf_secret" not in done.stdout + done.stderr


CARD = """---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train-*}
  - {split: validation, path: main/validation-*}
  - {split: test, path: main/test-*}
---
"""


# How many questions of a folder have equal options, and how many more rows are refused.
SHARED = {
    "arc": (0, 1),
    "obqa": (3, 0),
    "cqa": (146, 0),
    "svamp-rationales": (0, 0),
    "esnli-rationales": (0, 0),
    "shuffled": (0, 0),
}


@pytest.mark.parametrize("name", SHARED)
def test_the_shared_data_sets_have_only_known_bad_rows(name):
    data = load_parameters(ROOT / "params.yaml").datasets[name]
    folder = ROOT / data.folder
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist")
    tally: Counter[str] = Counter()
    fields = data.fields.model_copy(update={"equal_options": "merge"})
    changes = {"folder": folder, "fields": fields, "sizes": FileSizes()}
    rows = list(read(data.model_copy(update=changes), 0, 50_000, tally))
    lines = sum(len(file.read_bytes().splitlines()) for file in folder.glob("*.jsonl"))
    assert len(rows) == lines
    bad = Counter(row.reason for row in rows if isinstance(row, Rejected) and not row.repeated)
    control = "question: contains U+0002, a sign of a wrong encoding or a binary file"
    equal, refused = SHARED[name]
    assert bad == ({control: refused} if refused else {})
    assert tally["with equal options"] == equal
