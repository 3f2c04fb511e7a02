"""The quality gate: what became of a rationale, and which ones a student may learn from."""

from collections.abc import Sequence

from stages.distil.answers import conclusion, same

OK, EMPTY, TRUNCATED, CONTRADICTS = STATUSES = ("ok", "empty", "truncated", "contradicts")


def rationale_status(
    rationale: str, finish_reason: str, options: Sequence[str], answer: str
) -> str:
    """Return `ok`, or why a rationale is no training target.

    It may be empty, cut off by the token limit, or contradict the answer: its last sentence names
    another option last.
    """
    if not rationale.strip():
        return EMPTY
    if finish_reason == "length":
        return TRUNCATED
    concluded = conclusion(rationale, options)
    if concluded is not None and not same(concluded, answer):
        return CONTRADICTS
    return OK
