"""Files of rows: read by number, written by one process."""

import threading
from collections import Counter

import pyarrow as pa
import pytest

from stages.distil.encoding import arrow
from stages.distil.encoding.arrow import Rows, fill_once, write_rows

SCHEMA = pa.schema({"number": pa.int32(), "texts": pa.list_(pa.string())})


def row(number: int) -> dict:
    return {"number": number, "texts": ["é"] * (number % 3)}


def test_rows_are_read_by_number(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow, "BATCH", 4)
    write_rows(tmp_path / "rows.arrow", SCHEMA, map(row, range(10)))
    rows = Rows(tmp_path / "rows.arrow", lambda row: row)
    assert list(rows) == list(map(row, range(10)))
    assert (rows[7], rows[-1], rows[3:9:2]) == (row(7), row(9), [row(3), row(5), row(7)])
    with pytest.raises(IndexError):
        rows[10]


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_rows(tmp_path / name, SCHEMA, map(row, range(10)))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_one_process_writes_and_the_others_wait(tmp_path):
    written, seen = Counter(), []
    begun, go = threading.Event(), threading.Event()

    def write(folder):
        written["times"] += 1
        begun.set()
        go.wait()
        (folder / "file").write_text("whole")

    def fill():
        fill_once(tmp_path / "rows", "key", write)
        seen.append((tmp_path / "rows/file").read_text())

    threads = [threading.Thread(target=fill) for _ in range(3)]
    for thread in threads:
        thread.start()
    begun.wait()
    assert not (tmp_path / "rows").exists()
    go.set()
    for thread in threads:
        thread.join()
    assert (written["times"], seen) == (1, ["whole"] * 3)


def test_another_key_and_a_failure_leave_nothing_old(tmp_path):
    folder = tmp_path / "rows"
    fill_once(folder, "one", lambda staging: (staging / "one").write_text(""))

    def fail(staging):
        (staging / "two").write_text("")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fill_once(folder, "two", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.lock"]
    fill_once(folder, "two", lambda staging: (staging / "two").write_text(""))
    assert sorted(path.name for path in folder.iterdir()) == ["key", "two"]
