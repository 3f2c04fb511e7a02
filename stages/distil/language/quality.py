"""The quality gate: the status of a rationale, and what to keep of a truncated one."""

import re
from collections.abc import Sequence

from stages.distil.interface.method import STATUSES
from stages.distil.language.answers import final_value, normalise, quantity
from stages.distil.language.appearance import appearance
from stages.distil.language.conclusions import (
    LIST_MARK,
    before_next_question,
    concludes,
    conclusion,
    ends_in_answer,
)
from stages.distil.language.words import spread

OK, EMPTY, TRUNCATED, REPETITIVE, CONTRADICTS, INCONCLUSIVE, TOO_LONG = STATUSES
LENGTH, CONTENT_FILTER = "length", "content_filter"  # finish reasons of texts that were cut off
CUT_OFF = (LENGTH, CONTENT_FILTER)
RUN = 4  # words
FEWEST_RUNS = 8  # a text with fewer is too short to judge


def rationale_status(
    rationale: str,
    finish_reason: str,
    options: Sequence[str],
    answer: str | None,
    concluded: str | None = None,
    conclude: bool = True,
) -> str:
    """Return `ok`, or what is wrong with a rationale.

    `too_long`: the prompt exceeds the teacher's context, so nothing was written; `empty`;
    `repetitive`: at least half of its four-word runs repeat earlier ones; `truncated`: cut off by
    the token limit or a server's filter; `contradicts`: it concludes in another option or number
    than the answer; `inconclusive`: there are options and it concludes in none. `concluded` is the
    answer that the teacher gave along with the rationale; the default is what it concludes in
    itself (`conclusions.concludes`). Without `conclude`, only a result that a rationale marks or
    states contradicts, and one that names no option is ok.
    Without an `answer` nothing contradicts: what is taught as the answer is not known yet.
    """
    if finish_reason == TOO_LONG:
        return TOO_LONG
    if finish_reason != LENGTH and not appearance(rationale):
        return EMPTY
    if is_repetitive(rationale):
        return REPETITIVE
    if finish_reason in CUT_OFF:
        return TRUNCATED
    if answer is None:  # nothing contradicts it
        concluded = concluded or conclusion(rationale, options)
        return OK if concluded or not options or not conclude else INCONCLUSIVE
    right = concludes(rationale, options, answer, concluded, named=conclude)
    if right is None:
        return INCONCLUSIVE if options and conclude else OK
    return OK if right else CONTRADICTS


def is_repetitive(text: str) -> bool:
    """Return whether at least half of a text's runs of RUN words repeat earlier ones."""
    words = spread(normalise(text)).split()
    runs = [tuple(words[start : start + RUN]) for start in range(len(words) - RUN + 1)]
    return len(runs) >= FEWEST_RUNS and 2 * len(set(runs)) <= len(runs)


def read_published(
    text: str, options: Sequence[str], answer: str | None, conclude: bool
) -> tuple[str, str]:
    """Return a published rationale as far as it has whole sentences, and its status.

    It ends before the next question, if it goes on to one. Nobody says how its writing ended: it
    was cut off if it stops in mid-sentence, unless it is a note (not `conclude`), which may have no
    full stops. `answer` and `conclude` are those of `rationale_status`.
    """
    text = before_next_question(text)
    cut = conclude and stops_in_mid_sentence(text, options)
    reason = LENGTH if cut else "stop"
    status = rationale_status(text, reason, options, answer, conclude=conclude)
    return whole_sentences(text) if cut else text, status


def stops_in_mid_sentence(text: str, options: Sequence[str] = ()) -> bool:
    """Return whether a text goes on after its last complete sentence, without a result.

    The result is marked, or stated in full (`ends_in_answer`), or the equation of the last line. So
    nothing is said of a text without a complete sentence.
    """
    text = text.rstrip()
    kept = whole_sentences(text)
    if not 0 < len(kept) < len(text) or final_value(text) is not None:
        return False
    equal, result = text.rpartition("\n")[2].rpartition("=")[1:]
    if equal and quantity(result.rstrip(")")) is not None:
        return False
    return not ends_in_answer(text, options)


# An end, unless it is that of a list's mark: `1.`, `B.` before the text of a line.
SENTENCE = re.compile(
    rf"{LIST_MARK.pattern}|([.!?][\"')\]”“’»]*(?=\s|$)|[。！？])", LIST_MARK.flags
)


def whole_sentences(text: str) -> str:
    """Return a truncated text up to the end of its last complete sentence."""
    ends = [match.end() for match in SENTENCE.finditer(text) if match[1]]
    return text[: ends[-1]] if ends else ""
