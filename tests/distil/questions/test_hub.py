"""Folders that `datasets` cannot read are one line each."""

import gzip
import json
from pathlib import Path

import pytest

from stages.distil.interface.catalogue import Hub
from stages.distil.interface.errors import UserError
from stages.distil.questions import hub
from stages.distil.storage.examples import Record
from tests.conftest import question


def lines(*rows: dict) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def read(folder: Path, **contents: bytes) -> list[Record]:
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return list(hub.read(Hub(source="hub", folder=folder), "train"))


SURROGATE = lines(question(0), question(1, note="half \ud83d"))
FILES = "read its files with `source: files`"
WRONG = [
    (
        {"train-0.jsonl": lines(question(0, id=3)), "train-1.jsonl": lines(question(1))},
        "split 'train' or another: Failed to parse string: 'train-1' as a scalar of type int64",
        FILES,
    ),
    (
        {"train-0.jsonl": lines(question(0)), "train-1.jsonl": lines(question(1, more="x"))},
        "its files differ in their columns: there are 1 new columns ({'more'})",
        FILES,
    ),
    (
        {"train-0.csv": b"id,question\n1,q\n", "train-1.csv": b"id,question,more\n1,q,x\n"},
        "Schema at index 1 was different: id: int64 question",
        FILES,
    ),
    ({"train.csv": b'id,question\n1,"q\n2,q\n'}, "EOF inside string starting at row 1", FILES),
    ({"train.csv": "id,q\n1,é\n".encode("latin-1")}, "can't decode byte 0xe9", FILES),
    ({"train.csv": "id,q\n1,q\n".encode("utf-16")}, "can't decode byte 0xff", FILES),
    ({"train.csv": b""}, "No columns to parse from file", FILES),
    ({"train.csv": b"id,question\n"}, 'Instruction "train" corresponds to no data', ""),
    ({"train.jsonl": SURROGATE}, "The surrogate pair in string is invalid. in row 1", FILES),
    ({"train.jsonl": lines(question(0)) + b"{bad\n"}, "JSON parse error", FILES),
    ({"train.jsonl": b""}, "its first file has no rows", FILES),
    ({"train.jsonl.gz": gzip.compress(SURROGATE)[:-9]}, "Compressed file ended", FILES),
    ({"train.parquet": b"PAR1"}, "Parquet file size is 4 bytes", FILES),
    ({"train.jsonl/x": b""}, "No (supported) data files found", ""),
    ({"train.jsonl": lines(question(0)), "README.md": b"---\na: [1\n---\n"}, "flow sequence", ""),
]


@pytest.mark.parametrize(("contents", "reason", "advice"), WRONG, ids=[w[1][:40] for w in WRONG])
def test_what_datasets_cannot_read_is_one_line(tmp_path, monkeypatch, contents, reason, advice):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        read(tmp_path / "mine", **contents)
    line = str(error.value)
    assert "\n" not in line
    assert f"data set {tmp_path / 'mine'}" in line
    assert reason in line
    assert (FILES in line) == bool(advice)
    assert "HF_TOKEN" not in line


def test_a_column_that_only_the_first_file_has_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shards = {"train-0.jsonl": question(0, more="x"), "train-1.jsonl": question(1)}
    records = read(tmp_path / "mine", **{name: lines(row) for name, row in shards.items()})
    assert [record.value["more"] for record in records] == ["x", None]
