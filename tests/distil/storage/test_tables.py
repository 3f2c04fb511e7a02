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


def test_every_nth_row_is_read_across_row_groups_and_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROW_GROUP", 3)
    for file, rows in {"00000": range(8), "00001": range(8, 12)}.items():
        path = tmp_path / tables.REJECTED.name / f"{file}.parquet"
        with tables.TableWriter(path, tables.SCHEMAS[tables.REJECTED]) as table:
            for number in rows:
                table.write(ROW | {"row": number})
    for step in (1, 2, 5, 7, 20):
        rows = tables.scan_table(tmp_path / tables.REJECTED.name, step=step)
        assert [row["row"] for row in rows] == list(range(0, 12, step))


@pytest.mark.parametrize(
    "read", [tables.read_table, lambda p: list(tables.scan_row_groups(p, ["text"]))]
)
def test_a_table_that_is_damaged_inside_is_named(tmp_path, read):
    path = tmp_path / tables.REJECTED
    tables.write_table(path, [ROW | {"text": f"{n} {n * n}" * 50} for n in range(100)])
    content = bytearray(path.read_bytes())
    content[4:-2000] = b"\0" * (len(content) - 2004)
    path.write_bytes(content)
    with pytest.raises(
        UserError, match="rejected.parquet: damaged .*; delete it and run `dvc repro`"
    ):
        read(path)
