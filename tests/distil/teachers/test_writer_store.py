import sqlite3
import subprocess
import sys

import pytest

from stages.distil.interface.errors import UserError
from stages.distil.teachers.backend import Completion
from stages.distil.teachers.writer import GENERATIONS, Generations
from tests.conftest import ROOT

TEXT = Completion("naïve \n\t 日本 text", "stop", 7, 3)


@pytest.fixture(autouse=True)
def _working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_stored_text_is_read_by_another_connection():
    with Generations() as store:
        assert store.get(b"key") is None
        store.put(b"key", TEXT)
        assert store.get(b"key") == TEXT
        with Generations() as other:
            assert other.get(b"key") == TEXT
            assert other.get(b"other") is None


def test_escape_codes_and_halves_of_characters_stay_outside():
    hostile = Completion(
        "\x1b[31mred\x1b[0m \x00\x9b1mand\x1b]0;title\x07 \ud83dgreen", "stop", 7, 3
    )
    with Generations() as store:
        store.put(b"new", hostile)
        assert store.get(b"new") == Completion("red and green", "stop", 7, 3)
        store.insert(b"kept before", ["\x1b[31mred\x1b[0m\r\nblue", "stop", 7, 3])
        assert store.get(b"kept before") == Completion("red\nblue", "stop", 7, 3)
    with sqlite3.connect(GENERATIONS) as database:
        query = "SELECT text FROM generations WHERE key = ?"
        assert database.execute(query, [b"new"]).fetchone() == ("red and green",)


def test_the_first_text_of_a_key_is_kept():
    with Generations() as store:
        store.put(b"key", TEXT)
        store.put(b"key", Completion("later", "stop", 7, 3))
        assert store.get(b"key") == TEXT


def test_a_score_is_a_number_also_one_that_was_kept_before():
    scored = Completion("", "stop", 7, 3, score=-1.25)
    with Generations() as store:
        store.put(b"new", scored)
        store.insert(b"kept before", ["-1.25", "stop", 7, 3])
        store.insert(b"no number", ["red", "stop", 7, 3])
        assert store.get(b"new", scored=True) == scored
        assert store.get(b"kept before", scored=True) == scored
        assert store.get(b"no number", scored=True) is None
        assert store.times_lacking(b"new") == 0


def test_two_processes_can_write_at_the_same_time():
    program = (
        "import sys\n"
        "from stages.distil.teachers.writer import Generations\n"
        "from stages.distil.teachers.backend import Completion\n"
        "with Generations() as store:\n"
        "    for n in range(500):\n"
        "        store.put(f'{sys.argv[1]} {n}'.encode(), Completion(sys.argv[1], 'stop', n, n))\n"
    )
    command = [sys.executable, "-c", program]
    writers = [
        subprocess.Popen([*command, name], env={"PYTHONPATH": str(ROOT)}) for name in ("a", "b")
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    with Generations() as store:
        for name in ("a", "b"):
            for n in range(500):
                assert store.get(f"{name} {n}".encode()) == Completion(name, "stop", n, n)


def test_a_file_that_is_not_a_store_is_named_and_kept():
    GENERATIONS.parent.mkdir(parents=True)
    GENERATIONS.write_text("not a database, but long enough to look like one" * 100)
    with (
        pytest.raises(UserError, match="generations.sqlite: file is not a database"),
        Generations(),
    ):
        pass
    assert GENERATIONS.read_text().startswith("not a database")


def test_a_store_of_another_version_is_refused():
    with Generations():
        pass
    with sqlite3.connect(GENERATIONS) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="version 99"), Generations():
        pass


def test_a_full_disk_is_reported_and_stored_texts_are_kept():
    with Generations() as store:
        store.put(b"first", TEXT)
        store._database.execute("PRAGMA max_page_count = 4")
        with pytest.raises(UserError, match="full; stored values are kept"):
            for n in range(1000):
                store.put(f"key {n}".encode(), TEXT)
    with Generations() as store:
        assert store.get(b"first") == TEXT
