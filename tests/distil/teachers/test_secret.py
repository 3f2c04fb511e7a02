"""The key works as people paste it, and no text shows it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.distil.interface.errors import UserError
from stages.distil.teachers.secret import PIECE, SHOWN, Secret

KEY = "sk-Proj-7f3kQ9xZ2mVb8LtR"


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)


@pytest.mark.parametrize(
    "pasted", [f"{KEY}\n", f"{KEY}\r\n", f' "{KEY}" ', f"'{KEY}'\n", f"“{KEY}”"]
)
def test_a_pasted_key_works(monkeypatch, pasted):
    monkeypatch.setenv("MY_KEY", pasted)
    assert Secret("MY_KEY").headers() == {"Authorization": f"Bearer {KEY}"}


def test_without_a_key_none_is_sent(monkeypatch):
    monkeypatch.delenv("MY_KEY")
    assert Secret("MY_KEY").headers() == {}
    assert Secret("MY_KEY").presentable("as it is") == "as it is"


@pytest.mark.parametrize(
    "pasted", ["sk-ключ", "sk-secret\nsk-other", "sk secret", "sk-\x00", "sk-é"]
)
def test_what_no_header_can_carry_is_refused_without_showing_it(monkeypatch, pasted):
    if "\x00" in pasted:
        pasted = "sk-\x01"  # the environment holds no NUL
    monkeypatch.setenv("MY_KEY", pasted)
    with pytest.raises(UserError, match="environment variable MY_KEY.*at place") as error:
        Secret("MY_KEY")
    assert pasted not in str(error.value) and "\n" not in str(error.value)


def pieces(key: str) -> list[str]:
    return [key[start : start + PIECE] for start in range(len(key) - PIECE + 1)]


@given(
    st.text(max_size=2 * SHOWN),
    st.integers(0, len(KEY)),
    st.integers(0, len(KEY)),
    st.sampled_from([str, str.upper, str.lower]),
    st.text(max_size=2 * SHOWN),
)
def test_no_part_of_the_key_is_ever_shown(before, start, end, spelling, after):
    """However long the text, wherever the key stands in it, and however much of it is there."""
    secret = Secret("MY_KEY")
    shown = secret.presentable(before + spelling(KEY[start:end]) + after)
    assert len(shown) <= SHOWN and shown.isprintable()
    for piece in pieces(KEY):
        assert piece.casefold() not in shown.casefold()


def test_a_long_text_around_the_key_is_kept():
    assert Secret("MY_KEY").presentable(f"key {KEY}, {KEY}{KEY} no") == "key ***, *** no"
    assert Secret("MY_KEY").presentable("x" * 290 + f" {KEY}") == "x" * 290 + " ***"


def test_terminal_codes_are_left_out():
    assert Secret("MY_KEY").presentable("\x1b[31mred\x9b0m\x07\u202e\n end") == "[31mred 0m end"


def test_a_short_key_is_masked_whole(monkeypatch):
    monkeypatch.setenv("MY_KEY", "abc")
    assert Secret("MY_KEY").presentable("no abc, ab") == "no ***, ab"


def test_a_key_in_a_models_text_is_taken_out_but_no_word_of_it(monkeypatch):
    assert Secret("MY_KEY").taken_out(f"It is {KEY}. {KEY[:9]}") == f"It is ***. {KEY[:9]}"
    monkeypatch.setenv("MY_KEY", "EMPTY")
    assert Secret("MY_KEY").taken_out("EMPTY") == "EMPTY"
