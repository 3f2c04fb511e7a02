from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.distil.interface.method import Saliency
from stages.distil.language.words import (
    WORD,
    find_words,
    owners,
    salient_words,
    spread,
)
from stages.distil.storage.tables import SALIENCY, SCHEMAS

KIND = SCHEMAS[SALIENCY].field("words").type


def settings(k: int, **changes) -> Saliency:
    return Saliency(teacher="any", top_k=k, weight=1, **changes)


def top_words_of(texts: list[str], words: list[list[dict[str, Any]]], k: int) -> list[list[str]]:
    nowhere = np.zeros((len(texts), 2), int)
    chosen = salient_words(
        pa.array(texts, pa.string()), pa.array(words, KIND), nowhere, settings(k)
    )
    return chosen.to_pylist()


def words_of(text: str, scores: list[float]) -> list[dict[str, Any]]:
    spans = find_words(text, [(0, len(text))])
    return [
        {"start": start, "end": end, "score": score}
        for (start, end), score in zip(spans, scores, strict=True)
    ]


def plain_top_words(text: str, words: list[dict[str, Any]], k: int) -> list[str]:
    """The same, a word at a time."""
    best: dict[str, tuple[int, str]] = {}
    for word in sorted(words, key=lambda w: (-abs(w["score"]), w["start"])):
        if len(best) < k:
            found = text[word["start"] : word["end"]]
            best.setdefault(found.casefold(), (word["start"], found))
    return [word for _, word in sorted(best.values())]


def owned(text: str, pieces: list[str]) -> list[tuple[str, str | None]]:
    spans, at = [], 0
    for piece in pieces:
        spans.append((at, at + len(piece)))
        at += len(piece)
    assert at == len(text)
    words = find_words(text, [(0, len(text))])
    return [
        (piece, text[slice(*words[number])] if number is not None else None)
        for piece, number in zip(pieces, owners(words, spans), strict=True)
    ]


def test_a_words_pieces_belong_to_it_and_punctuation_to_none():
    pieces = ["An", "n", ",", " mother", "-in", "-law", "."]
    long = "mother-in-law"
    assert [word for _, word in owned("Ann, mother-in-law.", pieces)] == [
        *["Ann", "Ann", None],
        *[long, long, long, None],
    ]


def test_a_piece_over_two_words_belongs_to_the_one_it_covers_more_of():
    assert owned("ab cd e", ["a", "b cd", " e"]) == [("a", "ab"), ("b cd", "cd"), (" e", "e")]
    assert owned("ab cd", ["a", "b c", "d"])[1] == ("b c", "ab")


def test_several_tokens_of_one_character_belong_to_the_same_word():
    assert owners(find_words("é x", [(0, 3)]), [(0, 1), (0, 1), (1, 3)]) == [0, 0, 1]


def test_tokens_before_and_after_the_words_belong_to_none():
    assert owners([(0, 2), (3, 5)], [(-9, -5), (-1, 2), (3, 5), (5, 8), (0, 0)]) == [
        *[None, 0, 1],
        *[None, None],
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "e\u0301te\u0301 it's mother-in-law, 1.5",
            ["e\u0301te\u0301", "it's", "mother-in-law", "1.5"],
        ),
        ("हिन्दी भाषा।", ["हिन्दी", "भाषा"]),
        ("👩\u200d👧 👍🏽\ufe0f a_b - . ’", ["a_b"]),
        ("می\u200cخواهم\tdas\u00a0Wort", ["می\u200cخواهم", "das", "Wort"]),
    ],
)
def test_words_of_many_scripts(text, words):
    assert [text[a:b] for a, b in find_words(text, [(0, len(text))])] == words


def test_words_stand_whole_in_a_span():
    assert find_words("one two three", [(0, 5), (8, 13)]) == [(0, 3), (8, 13)]


@pytest.mark.parametrize(
    ("k", "expected"),
    [(1, ["b"]), (2, ["b", "d"]), (3, ["a", "b", "d"]), (9, ["a", "b", "c", "d"])],
)
def test_the_top_words_stand_in_the_order_of_the_text(k, expected):
    text = "a b c d"
    words = [
        {"start": 0, "end": 1, "score": 2.0},
        {"start": 2, "end": 3, "score": -9.0},
        {"start": 4, "end": 5, "score": 0.5},
        {"start": 6, "end": 7, "score": 3.0},
    ]
    assert top_words_of([text], [words], k) == [expected]


def test_a_repeated_word_counts_once_and_ties_go_to_the_earlier():
    text = "the cat The dog"
    words = words_of(text, [1.0, 1.0, 5.0, 1.0])
    assert top_words_of([text], [words], 2) == [["cat", "The"]]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["The", "sits", "blue"]),
        ({"stop_words": False}, ["sits", "dog", "blue"]),
        ({"sign": "positive"}, ["The", "with", "blue"]),
        ({"options": False}, ["The", "sits", "WITH"]),
        ({"sign": "positive", "stop_words": False}, ["cat", "blue"]),
        ({"sign": "positive", "stop_words": False, "options": False}, ["cat"]),
    ],
)
def test_words_are_chosen_by_sign_kind_and_place(changes, expected):
    text = "The cat sits WITH the dog\nOptions: with, blue"
    scores = [9.0, 2.0, -8.0, 6.5, 6.0, -5.0, 0.0, 7.0, 8.5]
    words = pa.array([words_of(text, scores), []], KIND)
    options = np.array([[len("The cat sits WITH the dog"), len(text)], [0, 0]])
    chosen = salient_words(pa.array([text, ""]), words, options, settings(3, **changes))
    assert chosen.to_pylist() == [expected, []]


def test_without_the_options_the_words_of_a_rationale_remain():
    text = "Is it red?\nOptions: red, blue\nRed is warm"
    scores = [1.0, 1.0, 2.0, 9.0, 8.0, 7.0, 3.0, 1.0, 4.0]
    words = pa.array([words_of(text, scores)], KIND)
    options = np.array([[len("Is it red?"), len("Is it red?\nOptions: red, blue")]])
    chosen = salient_words(pa.array([text]), words, options, settings(2, options=False))
    assert chosen.to_pylist() == [["Red", "warm"]]


@given(
    st.lists(
        st.lists(st.sampled_from("a A b ß SS ẞ é 犬 🐕x ab the The".split()), max_size=12),
        max_size=9,
    ),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
    st.integers(0, 3),
    st.booleans(),
    st.booleans(),
)
def test_many_texts_at_once_give_what_each_gives_alone(texts, k, random, cut, positive, stop_words):
    lines = [", ".join(text) for text in texts]
    words = [
        [
            {"start": m.start(), "end": m.end(), "score": float(random.randint(-3, 3))}
            for m in WORD.finditer(line)
        ]
        for line in lines
    ]
    options = np.array([[5, 9]] * len(lines)).reshape(-1, 2)
    saliency = settings(
        k, sign="positive" if positive else "absolute", stop_words=stop_words, options=not positive
    )
    expected = []
    for line, of_line in zip(lines, words, strict=True):
        counting = [
            word
            for word in of_line
            if (not positive or (word["score"] > 0 and (word["end"] <= 5 or word["start"] >= 9)))
            and (stop_words or line[word["start"] : word["end"]].casefold() not in ("a", "the"))
        ]
        expected.append(plain_top_words(line, counting, k))
    # A slice of an array begins in the middle of its buffers.
    of_slice = pa.array(lines, pa.string())[cut:], pa.array(words, KIND)[cut:], options[cut:]
    assert salient_words(*of_slice, saliency).to_pylist() == expected[cut:]


def test_where_no_spaces_are_written_the_tokens_are_the_words():
    text = "红茶比牛奶热 than tea"
    tokens = [(0, 2), (2, 3), (3, 5), (5, 6), (6, 9), (9, 11), (11, 15)]
    words = find_words(text, [(0, len(text))], tokens)
    assert [text[a:b] for a, b in words] == ["红茶", "比", "牛奶", "热", "than", "tea"]


def test_a_word_is_not_cut_before_a_combining_mark_or_inside_a_spaced_script():
    text = "ชานม tea"
    tokens = [(0, 1), (1, 3), (3, 4), (4, 6), (6, 8)]
    words = find_words(text, [(0, len(text))], tokens)
    assert [text[a:b] for a, b in words] == ["ช", "าน", "ม", "tea"]
    marked = "น้ำชา"  # น, two marks that belong to it, ช, า
    words = find_words(marked, [(0, len(marked))], [(n, n + 1) for n in range(len(marked))])
    assert "".join(marked[a:b] for a, b in words) == marked
    assert marked[words[0][0] : words[0][1]].startswith("น้")


def test_spreading_puts_spaces_between_characters_of_such_scripts_only():
    assert spread("红茶 is tea").split() == ["红", "茶", "is", "tea"]
    assert spread("It is tea.") == "It is tea."
