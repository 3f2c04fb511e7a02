"""A store keeps what it accepts, and says so when it accepts nothing."""

import pytest

from stages.distil.interface.errors import UserError
from stages.distil.storage.store import Store


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "x.sqlite", "numbers", {"name": "TEXT", "number": "INTEGER"}) as opened:
        yield opened


@pytest.mark.parametrize("write", ["insert", "replace"])
@pytest.mark.parametrize(
    "values", [["a", None], [None, 1], ["a", 2**70], ["a", {"b": 1}], ["\ud83d", 1], ["a", [1]]]
)
def test_a_write_that_is_refused_is_an_error_and_not_about_the_disk(store, write, values):
    with pytest.raises(ValueError, match="nothing was stored") as error:
        getattr(store, write)(b"key", values)
    assert "disk" not in str(error.value)
    assert store.select(b"key") is None
    assert store.written == 0


def test_the_first_insert_is_kept_and_a_replacement_replaces(store):
    store.insert(b"key", ["first", 1])
    store.insert(b"key", ["second", 2])
    assert store.select(b"key") == ("first", 1)
    store.replace(b"key", ["third", 3])
    store.replace(b"new", ["fourth", 4])
    assert (store.select(b"key"), store.select(b"new")) == (("third", 3), ("fourth", 4))
    store.delete(b"key")
    assert store.select(b"key") is None


def test_a_full_disk_is_told_as_one(store):
    store._database.execute("PRAGMA max_page_count = 4")
    with pytest.raises(UserError, match="free disk space"):
        for number in range(1000):
            store.insert(str(number).encode(), ["x" * 100, number])
