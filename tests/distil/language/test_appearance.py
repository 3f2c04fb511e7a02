import sys
import unicodedata

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from stages.distil.language.appearance import appearance, as_text

SAME = [
    ("café", unicodedata.normalize("NFD", "café")),
    ("red", "red\u200b"),  # zero-width space
    ("red", "\ufeffred"),  # byte-order mark
    ("red", "re\u00add"),  # soft hyphen
    ("red", "r\u2060e\u200ed\u202c"),  # word joiner, marks of direction
    ("red", "red\u200d"),  # a joiner next to a Latin letter
    ("red", "r\u200ced"),
    ("red", "\u3164red\u115f"),  # fillers of Hangul
    ("red", "red\U000e0041"),  # a tag without a flag
    ("é", "e\u034f\u0301"),  # combining grapheme joiner
    ("New York", "New\u00a0York"),
    ("New York", "New \u200b\n  York"),
    ("New York", "New\u2800York"),  # blank Braille pattern
    ("mother-in-law", "mother\u2011in\u2010law"),
    ("❤", "❤\ufe0f"),
    ("سلام", "س\u200dلام"),  # letters that join anyway
    ("دار", "د\u200cار"),  # letters that never join
    ("می\u200cخواهم", "می\u200c\u200cخواهم"),
]
DIFFERENT = [
    ("می\u200cخواهم", "میخواهم"),  # Persian: the prefix stands apart
    ("ه\u200d", "ه"),  # the initial form of heh
    ("क्\u200dष", "क्ष"),  # Devanagari: a half form, a ligature
    ("क्\u200cष", "क्ष"),
    ("👨\u200d👩\u200d👧", "👨👩👧"),  # a family, three people
    ("👩🏽\u200d🔬", "👩🏽🔬"),
    ("🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f", "🏴"),  # Scotland's
    (
        "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # England's
    ),
    ("10²", "102"),
    ("BB", "bb"),
    ("a", "а"),  # the second is Cyrillic
    ("1/2", "½"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_texts_that_a_reader_cannot_tell_apart_have_one_form(one, other):
    assert one != other
    assert appearance(one) == appearance(other) != ""


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_texts_that_a_reader_can_tell_apart_have_two(one, other):
    assert appearance(one) != appearance(other)


@pytest.mark.parametrize(
    "text", ["", " \n", "\u200b", "\ufeff\u00ad", "\u200d", "\u3164", "\u2800", "\u00a0\u200c"]
)
def test_a_text_of_invisible_characters_has_an_empty_form(text):
    assert appearance(text) == appearance(text, lines=True) == ""


def test_the_indentation_of_lines_counts_where_a_text_may_be_code():
    inside, after = "if x:\n    a()\n    b()", "if x:\n    a()\nb()"
    assert appearance(inside) == appearance(after)
    assert appearance(inside, lines=True) != appearance(after, lines=True)
    assert appearance(" if  x:\u00a0\n    a() ", lines=True) == "if x:\n    a()"


@given(st.text())
def test_a_form_is_its_own_form(text):
    assert appearance(appearance(text)) == appearance(text)


def test_every_character_that_unicode_says_is_not_shown_is_left_out():
    joiners = "\u200c\u200d"
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if regex.match(r"\p{Default_Ignorable_Code_Point}", character):
            assert appearance(f"a{character}b") == "ab", hex(code)
            assert appearance(character) == ""
        assert character not in joiners or appearance(f"क्{character}ष") == f"क्{character}ष"


WRITTEN = [
    ("plain, é, 漢字, 👩🏽\u200d🔬\n\ttext", "plain, é, 漢字, 👩🏽\u200d🔬\n\ttext"),
    ("a\x00b", "ab"),
    ("\x1b[31mred\x1b[0m", "red"),
    ("\x9b31mred", "red"),
    ("\x1b]0;title\x07text", "text"),
    ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
    ("\x9d0;title\x9ctext", "text"),
    ("\x1bcgone", "gone"),
    ("\x1b(Btext", "text"),
    ("open \x1b]0;title\nnext line", "open \nnext line"),
    ("one\r\ntwo\rthree\x0cfour\x85five", "one\ntwo\nthree\nfour\nfive"),
    ("half \ud83d pair", "half  pair"),
    ("\x1b\x1b[31m", ""),
    ("ends in \x1b", "ends in "),
]


@pytest.mark.parametrize(("written", "text"), WRITTEN)
def test_a_models_text_is_kept_without_what_terminals_obey(written, text):
    assert as_text(written) == text


@given(st.text(st.characters(codec=None)))
def test_no_control_character_is_left(text):
    left = as_text(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in left if c not in "\n\t")
    assert as_text(left) == left
