"""The words of a text: where they are, which tokens they own, and the k of the largest score."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import regex

from stages.distil.interface.method import Saliency
from stages.distil.language.student_prompts import question_text

# A word is letters and digits, each with its combining marks and joiners; hyphens, apostrophes or
# points inside it join it.
_PART = r"[\p{L}\p{N}_][\p{L}\p{N}\p{M}_\u200c\u200d]*"
WORD = regex.compile(rf"{_PART}(?:[-'’.]{_PART})*")
# Scripts that write no spaces between words.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_CUT = regex.compile(rf"(?!\p{{M}})(?:(?<=[{UNSPACED}])|(?=[{UNSPACED}]))")
_UNSPACED_CHARACTER = regex.compile(rf"[{UNSPACED}]\p{{M}}*")


def find_words(
    text: str, spans: Sequence[tuple[int, int]], tokens: Sequence[tuple[int, int]] = ()
) -> list[tuple[int, int]]:
    """Return the words of `text` that lie within one of `spans`, as character spans.

    Where a script writes no spaces, the borders of `tokens` are borders of words.
    """
    borders = sorted({border for token in tokens for border in token})
    words = [piece for match in WORD.finditer(text) for piece in _pieces(match, borders)]
    return [(a, b) for a, b in words if any(start <= a and b <= end for start, end in spans)]


def _pieces(word: regex.Match[str], borders: Sequence[int]) -> list[tuple[int, int]]:
    start, end = word.span()
    if not _UNSPACED_CHARACTER.search(word[0]):
        return [(start, end)]
    inside = borders[bisect_right(borders, start) : bisect_left(borders, end)]
    cuts = [start, *(b for b in inside if _CUT.match(word.string, b)), end]
    return list(pairwise(cuts))


def spread(text: str) -> str:
    """Put spaces around each character of the UNSPACED scripts, so that it counts as a word."""
    return _UNSPACED_CHARACTER.sub(r" \g<0> ", text)


def owners(words: Sequence[tuple[int, int]], tokens: Sequence[tuple[int, int]]) -> list[int | None]:
    """Return the number of the word that each token belongs to, or None.

    Words and tokens are character spans in the order of their starts. A token over two words
    belongs to the one that it covers more of, or to the earlier one if it covers both equally.
    """
    numbers: list[int | None] = []
    first = 0
    for start, end in tokens:
        while first < len(words) and words[first][1] <= start:
            first += 1
        covered = [
            (min(end, b) - max(start, a), -number)
            for number, (a, b) in enumerate(words[first : first + end - start + 1], start=first)
            if a < end and b > start
        ]
        numbers.append(-max(covered)[1] if covered else None)
    return numbers


def option_spans(questions: pa.Table) -> np.ndarray:
    """Return (N, 2) the characters where the options of each question begin and end.

    They are counted in the text of the question that teachers read. The questions have the columns
    `question` and `options`.
    """
    columns = (questions[name].to_pylist() for name in ("question", "options"))
    spans = [(len(asked), len(question_text(asked, o))) for asked, o in zip(*columns, strict=True)]
    return np.array(spans, np.int64).reshape(-1, 2)


def salient_words(
    texts: pa.StringArray, words: pa.ListArray, options: np.ndarray, saliency: Saliency
) -> pa.ListArray:
    """Return the words of each text that `saliency` chooses, in the text's order.

    A text is a question with its options and perhaps a rationale; `options` (N, 2) are the
    `option_spans` of the questions. `words` lists the words of each text in
    their order: `start`, `end` (characters of the text) and `score`. The k largest absolute scores
    are taken of words that speak for the answer, stand outside the options, and are no English stop
    words, where `saliency` says so. A repeated word, in any case, counts once, with its larger
    score; of two equal scores the earlier word wins.
    """
    flat = words.flatten()
    starts, ends, scores = (flat.field(name).to_numpy() for name in ("start", "end", "score"))
    rows = np.repeat(np.arange(len(texts)), words.value_lengths().to_numpy(zero_copy_only=False))
    kept = np.ones(len(rows), bool)
    if saliency.sign == "positive":
        kept &= scores > 0
    if not saliency.options:
        kept &= (ends <= options[rows, 0]) | (starts >= options[rows, 1])
    starts, ends, negated = starts[kept], ends[kept], -np.abs(scores[kept])
    lasts = np.cumsum(np.bincount(rows[kept], minlength=len(texts)))
    left_out = frozenset() if saliency.stop_words else _stop_words()
    chosen, first = [], 0
    for text, last in zip(texts.to_pylist(), lasts.tolist(), strict=True):
        order = negated[first:last].argsort(kind="stable") + first
        places: dict[str, int] = {}  # of the chosen words, by their form in lower case
        for place in order.tolist():
            word = text[starts[place] : ends[place]].casefold()
            if word not in left_out:
                places.setdefault(word, place)
                if len(places) == saliency.top_k:
                    break
        chosen.append([text[starts[place] : ends[place]] for place in sorted(places.values())])
        first = last
    return pa.array(chosen, pa.list_(pa.string()))


def _stop_words() -> frozenset[str]:
    """Return the English stop words of scikit-learn."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # takes a second

    return ENGLISH_STOP_WORDS
