import errno
from pathlib import Path

import pytest

from stages.distil.interface.errors import UserError
from stages.distil.storage import tables

ROW = {"source": "a.jsonl", "row": 1, "reason": "not JSON", "text": "{"}


def test_written_rows_are_read_back(tmp_path):
    path = tmp_path / tables.REJECTED
    tables.write_table(path, [ROW])
    assert tables.read_table(path) == [ROW]
    assert [file.name for file in path.parent.iterdir()] == ["rejected.parquet"]


def test_a_failing_writer_leaves_the_previous_table(tmp_path):
    path = tmp_path / tables.REJECTED
    tables.write_table(path, [ROW])

    def rows():
        yield ROW
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        tables.write_table(path, rows())
    assert tables.read_table(path) == [ROW]
    assert [file.name for file in path.parent.iterdir()] == ["rejected.parquet"]


def test_a_missing_damaged_or_wrong_table_is_named(tmp_path):
    path = tmp_path / tables.REJECTED
    with pytest.raises(UserError, match="rejected.parquet: no such table"):
        tables.read_table(path)
    path.parent.mkdir()
    path.write_bytes(b"not Parquet")
    with pytest.raises(UserError, match="rejected.parquet: not a Parquet table"):
        tables.read_table(path)
    other = tmp_path / tables.PREDICTIONS
    tables.write_table(other, [])
    other.replace(path)
    with pytest.raises(UserError, match="expected columns source, row, reason, text, found id"):
        tables.read_table(path)


def test_a_teacher_has_a_table_of_its_own(tmp_path):
    rationale = {
        "id": "1",
        "split": "train",
        "sample": 0,
        "rationale": "so",
        "status": "ok",
        "answer": None,
        "finish_reason": "stop",
        "prompt_tokens": 3,
        "output_tokens": 1,
    }
    path = tmp_path / tables.rationale_table("me")
    tables.write_table(path, [rationale])
    assert tables.read_table(path) == [rationale]


def test_metadata_is_read_back(tmp_path):
    for metadata in ({"parameters": "12"}, None):
        with tables.TableWriter(tmp_path / tables.REJECTED, metadata=metadata):
            pass
        assert tables.read_metadata(tmp_path / tables.REJECTED) == (metadata or {})


def test_rows_are_read_across_row_groups_and_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROW_GROUP", 3)
    for file, rows in {"00000": range(8), "00001": range(8, 12)}.items():
        path = tmp_path / tables.REJECTED.name / f"{file}.parquet"
        with tables.TableWriter(path, tables.SCHEMAS[tables.REJECTED]) as table:
            for number in rows:
                table.write(ROW | {"row": number})
    rows = tables.scan_table(tmp_path / tables.REJECTED.name, tables.SCHEMAS[tables.REJECTED])
    assert [row["row"] for row in rows] == list(range(12))


@pytest.mark.parametrize(
    "read", [tables.read_table, lambda p: list(tables.scan_row_groups(p, ["text"]))]
)
def test_a_table_that_is_damaged_inside_is_named(tmp_path, read):
    path = tmp_path / tables.REJECTED
    tables.write_table(path, [ROW | {"text": f"{n} {n * n}" * 50} for n in range(100)])
    content = bytearray(path.read_bytes())
    content[4:-2000] = b"\0" * (len(content) - 2004)
    path.write_bytes(content)
    with pytest.raises(UserError, match="rejected.parquet: damaged .*; run `make mend`, which"):
        read(path)


def full(file, *_, **__) -> None:
    """Fail as on a full disk: the file is there, and empty."""
    Path(file).touch()
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_no_temporary_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tables.pq, "ParquetWriter", full)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        tables.write_table(tmp_path / tables.REJECTED, [ROW])
    with pytest.raises(OSError, match="No space left"):
        tables.write_text(tmp_path / "folder/text", "text")
    with pytest.raises(OSError, match="No space left"):
        tables.write_shards(tmp_path / "shards", [], tables.SCHEMAS[tables.REJECTED])
    assert [path for path in tmp_path.rglob("*") if path.is_file() or "tmp" in path.name] == []


def test_damage_inside_a_table_is_named(tmp_path):
    """Whatever byte it is: rows are read, or one line says what to do."""
    path = tmp_path / tables.REJECTED
    tables.write_table(path, [ROW | {"row": number} for number in range(50)])
    content = path.read_bytes()
    named = 0
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        try:
            tables.read_table(path)
        except UserError as error:
            named += 1
            assert str(error).startswith(f"{path}: ")
            assert "dvc repro" in str(error)
    assert named > 20
