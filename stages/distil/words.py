"""Words of a text and their scores: from sub-word tokens to the top k, by character offsets."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

# A word is letters and digits, joined by hyphens, apostrophes or points inside it.
WORD = re.compile(r"\w+(?:[-'’.]\w+)*")


def word_scores(
    text: str, tokens: Sequence[tuple[int, int]], scores: Sequence[float]
) -> list[dict[str, Any]]:
    """Return the words of `text` with `start`, `end` and `score`, in the order of the text.

    A word's score is the sum over the tokens (character spans of `text`) that overlap it; a token
    over two words counts for the one it covers more of. Tokens outside all words are left out.
    """
    words = [{"start": m.start(), "end": m.end(), "score": 0.0} for m in WORD.finditer(text)]
    first = 0
    for (start, end), score in zip(tokens, scores, strict=True):
        while first < len(words) and words[first]["end"] <= start:
            first += 1
        covered = [
            (min(end, word["end"]) - max(start, word["start"]), -number, word)
            for number, word in enumerate(words[first : first + end - start + 1])
            if word["start"] < end and word["end"] > start
        ]
        if covered:
            max(covered)[2]["score"] += score
    return words


def top_words(texts: pa.StringArray, words: pa.ListArray, k: int) -> pa.ListArray:
    """Return for each text its k distinct words of the largest absolute score, in the text's order.

    `words` has for each text the list of its words in their order: `start`, `end` (characters of
    the text) and `score`. A word that stands twice, in whatever case, counts once, at its larger
    score; ties go to the earlier word.
    """
    counts = words.value_lengths().to_numpy(zero_copy_only=False)
    flat = words.flatten()
    starts, ends, scores = (flat.field(n).to_numpy() for n in ("start", "end", "score"))
    ranking = (np.cumsum(counts) - counts)[:, None] + _ranking(scores, counts)
    rows = np.arange(len(texts))  # of the texts whose words are still to be chosen
    owners, places, chosen = [], [], []
    for width in (2 * k, ranking.shape[1]):  # further words only where too many stand twice
        best = ranking[rows, :width]
        held = np.minimum(counts[rows], width)
        owner = np.repeat(rows, held)
        place = best[np.arange(best.shape[1]) < held[:, None]]
        found = _slices(texts, owner, starts[place], ends[place])
        distinct = np.zeros(len(place), np.int64)
        distinct[_first_of_each(owner, _folded(found))] = 1
        sums = np.bincount(owner, distinct, len(texts)).astype(np.int64)
        rank = np.cumsum(distinct) - (np.cumsum(sums) - sums)[owner]
        done = (sums >= k) | (counts <= width)
        kept = (distinct > 0) & (rank <= k) & done[owner]
        owners.append(owner[kept])
        places.append(place[kept])
        chosen.append(found.filter(pa.array(kept)))
        rows = rows[~done[rows]]
    owner = np.concatenate(owners)
    order = np.lexsort((np.concatenate(places), owner))
    ends_of_rows = np.cumsum(np.bincount(owner, minlength=len(texts)))
    offsets = pa.array(np.concatenate([[0], ends_of_rows]), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.concat_arrays(chosen).take(pa.array(order)))


def _first_of_each(owner: np.ndarray, word: np.ndarray) -> np.ndarray:
    """Return where each pair of text and word stands first."""
    return np.unique(owner * (word.max(initial=0) + 1) + word, return_index=True)[1]


def _ranking(scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the numbers of each text's words, the largest absolute score first, (texts, words).

    A float's bits, without its sign, order as the float does: one sort of whole numbers orders by
    score and then by place. Rows are padded on the right with what has no meaning.
    """
    width = max(counts, default=0)
    inside = np.arange(width) < counts[:, None]
    keys = np.full((len(counts), width), np.iinfo(np.uint64).max)
    bits = ~np.abs(scores).astype(np.float32).view(np.uint32)
    keys[inside] = bits.astype(np.uint64) << np.uint64(32) | np.nonzero(inside)[1].astype(np.uint64)
    keys.sort(axis=1)
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _slices(
    texts: pa.StringArray, rows: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> pa.StringArray:
    """Return the characters `starts` to `ends` of the texts at `rows`, all of one shape."""
    _, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    bytes_ = np.frombuffer(data or b"", np.uint8)[: bounds[-1]]
    # Where each character begins: every byte of UTF-8 but 10xxxxxx; then the end of the last.
    characters = np.append(np.flatnonzero((bytes_ & 0xC0) != 0x80), bounds[-1])
    first = np.searchsorted(characters, bounds)[rows]
    begin, end = characters[first + starts], characters[first + ends]
    places = np.concatenate([[0], np.cumsum(end - begin)])
    taken = np.repeat(begin - places[:-1], end - begin) + np.arange(places[-1])
    buffers = (pa.py_buffer(places.astype(np.int32)), pa.py_buffer(bytes_[taken]))
    return pa.StringArray.from_buffers(len(begin), *buffers)


def _folded(words: pa.StringArray) -> np.ndarray:
    """Return a number for each word, equal for words that differ in case only."""
    coded = words.dictionary_encode()
    folded = pa.array([w.casefold() for w in coded.dictionary.to_pylist()], pa.string())
    return folded.dictionary_encode().indices.take(coded.indices).to_numpy()
