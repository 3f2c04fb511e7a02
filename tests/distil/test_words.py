from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.distil.tables import SALIENCY, SCHEMAS
from stages.distil.words import WORD, top_words, word_scores


def top_words_of(texts: list[str], words: list[list[dict[str, Any]]], k: int) -> list[list[str]]:
    kind = SCHEMAS[SALIENCY].field("words").type
    return top_words(pa.array(texts, pa.string()), pa.array(words, kind), k).to_pylist()


def plain_top_words(text: str, words: list[dict[str, Any]], k: int) -> list[str]:
    """The same, a word at a time."""
    best: dict[str, tuple[int, str]] = {}
    for word in sorted(words, key=lambda w: (-abs(w["score"]), w["start"])):
        if len(best) < k:
            found = text[word["start"] : word["end"]]
            best.setdefault(found.casefold(), (word["start"], found))
    return [word for _, word in sorted(best.values())]


def scored(text: str, pieces: list[str], scores: list[float]) -> list[tuple[str, float]]:
    spans, at = [], 0
    for piece in pieces:
        spans.append((at, at + len(piece)))
        at += len(piece)
    assert at == len(text)
    return [(text[w["start"] : w["end"]], w["score"]) for w in word_scores(text, spans, scores)]


def test_a_words_score_is_the_sum_over_its_pieces_and_punctuation_is_left_out():
    found = scored("Ann, mother-in-law.", ["An", "n", ",", " mother", "-in", "-law", "."], range(7))
    assert found == [("Ann", 1.0), ("mother-in-law", 12.0)]


def test_a_piece_over_two_words_counts_for_the_one_it_covers_more_of():
    assert scored("ab c d", ["a", "b c", " d"], [1.0, 2.0, 4.0]) == [
        ("ab", 3.0),
        ("c", 0.0),
        ("d", 4.0),
    ]


def test_several_tokens_of_one_character_all_count():
    words = word_scores("é x", [(0, 1), (0, 1), (1, 3)], [1.0, 2.0, 3.0])
    assert [w["score"] for w in words] == [3.0, 3.0]


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
    words = word_scores(text, [(0, 3), (4, 7), (8, 11), (12, 15)], [1.0, 1.0, 5.0, 1.0])
    assert top_words_of([text], [words], 2) == [["cat", "The"]]


@given(
    st.lists(
        st.lists(st.sampled_from("a A b ß SS ẞ é 犬 🐕x ab".split()), max_size=12), max_size=9
    ),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
    st.integers(0, 3),
)
def test_many_texts_at_once_give_what_each_gives_alone(texts, k, random, cut):
    lines = [", ".join(text) for text in texts]
    words = [
        [
            {"start": m.start(), "end": m.end(), "score": float(random.randint(-3, 3))}
            for m in WORD.finditer(line)
        ]
        for line in lines
    ]
    expected = [plain_top_words(*row, k) for row in zip(lines, words, strict=True)]
    assert top_words_of(lines, words, k) == expected
    kind = SCHEMAS[SALIENCY].field("words").type
    sliced = top_words(pa.array(lines, pa.string())[cut:], pa.array(words, kind)[cut:], k)
    assert sliced.to_pylist() == expected[cut:]
