"""The quality gate: what became of a rationale, and which ones a student may learn from."""

import re
from collections.abc import Sequence

from stages.distil.interface.method import STATUSES
from stages.distil.language.answers import conclusion, normalise, same

OK, EMPTY, TRUNCATED, REPETITIVE, CONTRADICTS, INCONCLUSIVE, TOO_LONG = STATUSES
RUN = 4  # words
FEWEST_RUNS = 8  # below them a text is too short to tell


def rationale_status(
    rationale: str,
    finish_reason: str,
    options: Sequence[str],
    answer: str,
    concluded: str | None = None,
) -> str:
    """Return `ok`, or what is wrong with a rationale.

    `too_long`: its prompt is more than the teacher reads, nothing was written; `empty`;
    `repetitive`: half of its runs of four words or more have stood there before; `truncated`: cut
    off by the token limit; `contradicts`: it concludes in another option than the answer;
    `inconclusive`: there are options and it concludes in none. `concluded` is the answer that the
    teacher gave beside the rationale; without one, what the last sentence names last.
    """
    if finish_reason == TOO_LONG:
        return TOO_LONG
    if finish_reason != "length" and not rationale.strip():
        return EMPTY
    if is_repetitive(rationale):
        return REPETITIVE
    if finish_reason == "length":
        return TRUNCATED
    if concluded is None:
        concluded = conclusion(rationale, options)
    if concluded is None:
        return INCONCLUSIVE if options else OK
    return OK if same(concluded, answer) else CONTRADICTS


def is_repetitive(text: str) -> bool:
    """Return whether at least half of a text's runs of RUN words have stood in it before."""
    words = normalise(text).split()
    runs = [tuple(words[start : start + RUN]) for start in range(len(words) - RUN + 1)]
    return len(runs) >= FEWEST_RUNS and 2 * len(set(runs)) <= len(runs)


def whole_sentences(text: str) -> str:
    """Return a text that was cut off, up to the end of its last full sentence."""
    ends = [match.end() for match in re.finditer(r"[.!?][\"')\]”“’»]*(?=\s|$)|[。！？]", text)]
    return text[: ends[-1]] if ends else ""
