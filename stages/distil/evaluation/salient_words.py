"""What the scores of words say: how often they find the answer, how they fall off, how to shade.

Knows the table of scores; knows nothing of the model that gave them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
import pyarrow as pa

from stages.distil.interface.method import Saliency
from stages.distil.language.words import find_words, top_words
from stages.distil.storage import tables

LARGEST_K = 20  # of the curve
SHADES = 8  # so many different ones an eye can tell apart, and more


@dataclass(frozen=True)
class Scored:
    """The scored questions: their texts, their words with scores, and the gold answers."""

    ids: list[str]
    texts: pa.StringArray
    words: pa.ListArray
    answers: list[str]


def read_scored() -> Scored:
    """Read the table of scores beside the questions' answers."""
    tables.check_exists(tables.SALIENCY)
    answers = {example.id: example.answer for example in tables.scan_examples("train")}
    with tables.open_table(tables.SALIENCY) as file:
        table = file.read(["id", "text", "words"]).combine_chunks()
    ids = table["id"].to_pylist()
    texts, words = (pa.concat_arrays(table[name].chunks) for name in ("text", "words"))
    return Scored(ids, texts, words, [answers[name] for name in ids])


def overlap(scored: Scored, saliency: Saliency) -> dict[str, Any]:
    """Return how often a word of the gold answer is among a question's top words.

    `overlap` is the share of the questions where one is (Ballout et al., NLDB 2024: 68 % on
    multiple-choice questions), `chance` the share to expect where as many are drawn at random from
    the words that could be chosen: 1 - C(n - m, k) / C(n, k) for n words, m of them the answer's.
    """
    k, stop_words = saliency.top_k, saliency.stop_words
    most = max(scored.words.value_lengths().to_pylist(), default=0)
    chosen = top_words(scored.texts, scored.words, k, stop_words).to_pylist()
    possible = top_words(scored.texts, scored.words, max(most, 1), stop_words).to_pylist()
    hits, chances = [], []
    for top, every, answer in zip(chosen, possible, scored.answers, strict=True):
        wanted = {answer[a:b].casefold() for a, b in find_words(answer, [(0, len(answer))])}
        misses = sum(word.casefold() not in wanted for word in every)
        hits.append(any(word.casefold() in wanted for word in top))
        chances.append(1 - comb(misses, len(top)) / comb(len(every), len(top)))
    return {
        "overlap": round(float(np.mean(hits)), 6),
        "chance": round(float(np.mean(chances)), 6),
        "questions": len(hits),
    }


def kept_mass(words: pa.ListArray) -> list[float]:
    """Return for k from 0 to LARGEST_K the share of the absolute scores that the top k words hold.

    The mean over the questions, each word counted where it stands; a question whose scores are all
    zero is left out.
    """
    curves = []
    for row in words.to_pylist():
        sizes = np.sort([abs(word["score"]) for word in row])[::-1]
        if sizes.sum():
            largest = np.pad(sizes, (0, LARGEST_K))[:LARGEST_K]
            curves.append(np.concatenate([[0.0], largest.cumsum() / sizes.sum()]))
    return np.mean(curves, axis=0).round(6).tolist() if curves else []


def pieces(
    text: str, words: Sequence[dict[str, Any]], top: set[str]
) -> list[tuple[str, int | None, float, bool]]:
    """Cut a text into (piece, shade from 0 to SHADES or None between words, score, top or not).

    `top` are the chosen words, casefolded.
    """
    largest = max((abs(word["score"]) for word in words), default=0.0) or 1.0
    pieces: list[tuple[str, int | None, float, bool]] = []
    here = 0
    for word in words:
        found, score = text[word["start"] : word["end"]], word["score"]
        pieces.append((text[here : word["start"]], None, 0.0, False))
        pieces.append((found, round(SHADES * abs(score) / largest), score, found.casefold() in top))
        here = word["end"]
    return [*pieces, (text[here:], None, 0.0, False)]
