import pytest

from stages.distil.words import top_words, word_scores


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
    assert top_words(text, words, k) == expected


def test_a_repeated_word_counts_once_and_ties_go_to_the_earlier():
    text = "the cat The dog"
    words = word_scores(text, [(0, 3), (4, 7), (8, 11), (12, 15)], [1.0, 1.0, 5.0, 1.0])
    assert top_words(text, words, 2) == ["cat", "The"]
