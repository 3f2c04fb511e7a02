"""What identifies the texts of a teacher behind a server."""

from pathlib import Path

import pytest

from stages.distil.interface.catalogue import ServerModel
from stages.distil.interface.method import Rationales
from stages.distil.storage import versions
from stages.distil.teachers.selection import identity

URL = "http://localhost:8000/v1"


def of(**entry) -> str:
    source = ServerModel(source="server", **({"url": URL, "model": "m"} | entry))
    return identity("far", source, Rationales.model_construct(), Path())


def test_an_entry_without_identity_keeps_the_key_of_its_stored_texts():
    """As it was before entries had an identity: no stored text is bought again."""
    plain = '{"model": "m", "source": "server"}'
    assert of() == f"[{versions.TEXTS}, {plain}]"
    full = of(revision="2", chat=False, temperature=False, max_completion_tokens=9)
    fields = (
        '{"chat": false, "max_completion_tokens": 9, "model": "m", "revision": "2", '
        '"source": "server", "temperature": false}'
    )
    assert full == f"[{versions.TEXTS}, {fields}]"


def test_an_identity_tells_two_servers_apart():
    assert len({of(), of(identity="a"), of(identity="b"), of(model="n")}) == 4


@pytest.mark.parametrize(
    "entry",
    [
        {"url": "http://localhost:8001/v1"},
        {"url": [URL, "http://other:8000/v1"]},
        {"key": "OTHER_KEY"},
        {"timeout": 5},
        {"tries": 1},
        {"in_flight": 1},
        {"seed": False},
    ],
)
def test_how_a_server_is_reached_is_not_part_of_it(entry):
    assert of(**entry) == of()
