"""Statistics of word scores: overlap with the answers, mass of the top words, shades."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb
from typing import Any

import numpy as np
import pyarrow as pa

from stages.distil.interface.method import Saliency
from stages.distil.language.words import find_words, option_spans, salient_words, spread
from stages.distil.storage import tables
from stages.distil.storage.following import with_questions

LARGEST_K = 20  # of the curve of `kept_mass`
SHADES = 8  # few enough to tell apart


@dataclass(frozen=True)
class Scored:
    """The scored questions: texts, where their options stand, scored words, and gold answers."""

    ids: list[str]
    texts: pa.StringArray
    options: np.ndarray
    words: pa.ListArray
    answers: list[str]


def scan_scored() -> Iterator[Scored]:
    """Yield the table of scores, with the questions' answers, in blocks of questions."""
    blocks = with_questions(
        tables.SALIENCY, ["text", "words"], ["question", "options", "answer"], "train", mixed=False
    )
    for rows, questions in blocks:
        texts, words = (pa.concat_arrays(rows[name].chunks) for name in ("text", "words"))
        options, answers = option_spans(questions), questions["answer"].to_pylist()
        yield Scored(rows["id"].to_pylist(), texts, options, words, answers)


def overlap(blocks: Iterable[Scored], saliency: Saliency) -> dict[str, Any]:
    """Return how often a word of the gold answer is among a question's top words.

    `overlap` is the share of questions with such a word (Ballout et al., NLDB 2024: 68 % on
    multiple-choice questions). `chance` is the share to expect if the k top words were drawn at
    random: 1 - C(n - m, k) / C(n, k) for n candidate words, m of them in the answer. Empty if no
    question is scored.
    """
    hits = total = 0
    chance = 0.0
    for scored in blocks:
        most = max(scored.words.value_lengths().to_pylist(), default=0)
        everything = saliency.model_copy(update={"top_k": max(most, 1)})
        chosen, candidates = (
            salient_words(scored.texts, scored.words, scored.options, settings).to_pylist()
            for settings in (saliency, everything)
        )
        chances = []
        for top, possible, answer in zip(chosen, candidates, scored.answers, strict=True):
            whole = _spelled(answer)
            misses = sum(_spelled(word) not in whole for word in possible)
            hits += any(_spelled(word) in whole for word in top)
            chances.append(1 - comb(misses, len(top)) / comb(len(possible), len(top)))
        total += len(chances)
        chance += float(np.sum(chances))
    if not total:
        return {}
    return {
        "overlap": round(hits / total, 6),
        "chance": round(chance / total, 6),
        "questions": total,
    }


@lru_cache(1 << 16)  # most words are frequent ones
def _spelled(text: str) -> str:
    """Return a text's words between spaces, casefolded; one without spaces, as its characters."""
    text = spread(text)
    words = (text[a:b].casefold() for a, b in find_words(text, [(0, len(text))]))
    return f" {' '.join(words)} "


def kept_mass(blocks: Iterable[Scored]) -> list[float]:
    """Return the top k words' share of the sum of absolute scores, for k from 0 to LARGEST_K.

    Each is a mean over questions. Repeated words count separately; questions whose scores are all
    zero are left out.
    """
    mass, total = np.zeros(LARGEST_K + 1), 0
    for scored in blocks:
        scores = np.abs(scored.words.flatten().field("score").to_numpy().astype(np.float64))
        ends = np.cumsum(scored.words.value_lengths().to_numpy(zero_copy_only=False))
        for row in np.split(scores, ends[:-1]):
            sizes = np.sort(row)[::-1]
            if whole := sizes.sum():
                largest = np.pad(sizes, (0, LARGEST_K))[:LARGEST_K]
                mass[1:] += largest.cumsum() / whole
                total += 1
    return (mass / total).round(6).tolist() if total else []


def pieces(
    text: str, words: Sequence[dict[str, Any]], top: set[str]
) -> list[tuple[str, int | None, float, bool]]:
    """Split a text into (piece, shade, score, whether the piece is a top word).

    A shade is from 0 to SHADES, or None between words. `top` are the top words, casefolded.
    """
    largest = max((abs(word["score"]) for word in words), default=0.0) or 1.0
    parts: list[tuple[str, int | None, float, bool]] = []
    end = 0
    for word in words:
        piece, score = text[word["start"] : word["end"]], word["score"]
        parts.append((text[end : word["start"]], None, 0.0, False))
        parts.append((piece, round(SHADES * abs(score) / largest), score, piece.casefold() in top))
        end = word["end"]
    return [*parts, (text[end:], None, 0.0, False)]
