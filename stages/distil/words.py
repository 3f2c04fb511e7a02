"""Words of a text and their scores: from sub-word tokens to the top k, by character offsets."""

import re
from collections.abc import Sequence
from typing import Any

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


def top_words(text: str, words: Sequence[dict[str, Any]], k: int) -> list[str]:
    """Return the k distinct words of the largest absolute score, in the order of the text.

    A word that stands twice counts once, at its larger score; ties go to the earlier word.
    """
    ranked = sorted(words, key=lambda word: (-abs(word["score"]), word["start"]))
    chosen: dict[str, dict[str, Any]] = {}
    for word in ranked:
        chosen.setdefault(text[word["start"] : word["end"]].casefold(), word)
        if len(chosen) == k:
            break
    in_order = sorted(chosen.values(), key=lambda word: word["start"])
    return [text[word["start"] : word["end"]] for word in in_order]
