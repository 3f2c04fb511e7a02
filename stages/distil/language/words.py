"""The words of a text: where they are, which tokens they own, and the k of the largest score."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex

from stages.distil.interface.method import Saliency

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


def salient_words(
    texts: pa.StringArray, words: pa.ListArray, options: np.ndarray, saliency: Saliency
) -> pa.ListArray:
    """Return the words of each text that `saliency` chooses, in the text's order.

    A text is a question with its options and perhaps a rationale; `options` (N, 2) are the
    characters where the options of each begin and end; `words` are those of `top_words`. The k
    largest scores are taken of words that speak for the answer, are no English stop words, and
    stand outside the options, where `saliency` says so.
    """
    flat = words.flatten()
    rows = np.repeat(np.arange(len(texts)), words.value_lengths().to_numpy(zero_copy_only=False))
    kept = np.ones(len(rows), bool)
    if saliency.sign == "positive":
        kept &= flat.field("score").to_numpy() > 0
    if not saliency.options:
        before = flat.field("end").to_numpy() <= options[rows, 0]
        kept &= before | (flat.field("start").to_numpy() >= options[rows, 1])
    if not saliency.stop_words:
        kept &= ~_stop_words(texts, rows, flat)
    counts = np.bincount(rows[kept], minlength=len(texts))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    words = pa.ListArray.from_arrays(offsets, flat.filter(pa.array(kept)))
    return top_words(texts, words, saliency.top_k)


def _stop_words(texts: pa.StringArray, rows: np.ndarray, words: pa.StructArray) -> np.ndarray:
    """Return which words, of the texts at `rows`, scikit-learn lists as English stop words."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # takes a second

    starts, ends = (words.field(name).to_numpy() for name in ("start", "end"))
    spelled = _slices(texts, rows, starts, ends).dictionary_encode()
    listed = [word.casefold() in ENGLISH_STOP_WORDS for word in spelled.dictionary.to_pylist()]
    return np.array(listed, bool)[spelled.indices.to_numpy()]


def top_words(texts: pa.StringArray, words: pa.ListArray, k: int) -> pa.ListArray:
    """Return each text's k distinct words of the largest absolute score, in the text's order.

    `words` lists the words of each text in their order: `start`, `end` (characters of the text) and
    `score`. A repeated word, in any case, counts once, with its larger score; of two equal scores
    the earlier word wins.
    """
    counts = words.value_lengths().to_numpy(zero_copy_only=False)
    first = np.cumsum(counts) - counts
    flat = words.flatten()
    starts, ends, scores = (flat.field(n).to_numpy() for n in ("start", "end", "score"))
    rows = np.arange(len(texts))  # the texts whose words are not chosen yet
    owners, places, chosen = [], [], []
    for width in (k, 4 * k, counts.max(initial=0)):  # more words if some are repeated
        place, held = _largest(scores, first[rows], counts[rows], width)
        owner = np.repeat(rows, held)
        spelled = _slices(texts, owner, starts[place], ends[place])
        distinct = np.zeros(len(place), np.int64)
        distinct[_first_of_each(owner, _folded(spelled))] = 1
        sums = np.bincount(owner, distinct, len(texts)).astype(np.int64)
        rank = np.cumsum(distinct) - (np.cumsum(sums) - sums)[owner]
        done = (sums >= k) | (counts <= width)
        kept = (distinct > 0) & (rank <= k) & done[owner]
        owners.append(owner[kept])
        places.append(place[kept])
        chosen.append(spelled.filter(pa.array(kept)))
        rows = rows[~done[rows]]
    owner = np.concatenate(owners)
    order = np.lexsort((np.concatenate(places), owner))
    ends_of_rows = np.cumsum(np.bincount(owner, minlength=len(texts)))
    offsets = pa.array(np.concatenate([[0], ends_of_rows]), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.concat_arrays(chosen).take(pa.array(order)))


def _first_of_each(owner: np.ndarray, word: np.ndarray) -> np.ndarray:
    """Return the first place of each pair of text and word."""
    return np.unique(owner * (word.max(initial=0) + 1) + word, return_index=True)[1]


def _largest(
    scores: np.ndarray, first: np.ndarray, counts: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of each text's `width` largest absolute scores, and their number by text.

    The largest comes first, and the earlier of two equal ones. A text has `counts` scores from
    place `first` on. The bits of a float without its sign sort like the float, so one sort of
    integers sorts by score and then by place.
    """
    most = int(counts.max(initial=0))
    place = np.arange(most)
    at = np.minimum(first[:, None] + place, max(len(scores) - 1, 0))
    bits = ~np.abs(scores.take(at)).astype(np.float32).view(np.uint32)
    keys = bits.astype(np.uint64) << np.uint64(32) | place.astype(np.uint64)
    keys[place >= counts[:, None]] = np.iinfo(np.uint64).max
    if width < most:
        keys = np.partition(keys, width, axis=1)[:, :width]
    keys.sort(axis=1)
    held = np.minimum(counts, width)
    largest = first[:, None] + (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return largest[place[:width] < held[:, None]], held


def _slices(
    texts: pa.StringArray, rows: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> pa.StringArray:
    """Return the characters from `starts` to `ends` of the texts at `rows`."""
    _, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    bytes_ = np.frombuffer(data or b"", np.uint8)[: bounds[-1]]
    begin, end = bounds[rows] + starts, bounds[rows] + ends  # if every character is a byte
    lengths = pc.utf8_length(texts).to_numpy()
    wide = lengths < np.diff(bounds)  # texts with longer characters
    if wide.any():
        # A character begins at every byte of UTF-8 but 10xxxxxx.
        inside = np.repeat(np.append(False, wide), np.diff(bounds, prepend=0))
        characters = np.append(np.flatnonzero(inside & ((bytes_ & 0xC0) != 0x80)), 0)
        wide_words = np.flatnonzero(wide[rows])
        row = rows[wide_words]
        first = (np.cumsum(lengths * wide) - lengths)[row]
        begin[wide_words] = characters[first + starts[wide_words]]
        at_end = ends[wide_words] == lengths[row]
        end[wide_words] = np.where(at_end, bounds[row + 1], characters[first + ends[wide_words]])
    places = np.concatenate([[0], np.cumsum(end - begin)])
    taken = np.repeat(begin - places[:-1], end - begin) + np.arange(places[-1])
    buffers = (pa.py_buffer(places.astype(np.int32)), pa.py_buffer(bytes_[taken]))
    return pa.StringArray.from_buffers(len(begin), *buffers)


def _folded(words: pa.StringArray) -> np.ndarray:
    """Return a number for each word; words that differ only in case have the same."""
    coded = words.dictionary_encode()
    folded = pa.array([w.casefold() for w in coded.dictionary.to_pylist()], pa.string())
    return folded.dictionary_encode().indices.take(coded.indices).to_numpy()
