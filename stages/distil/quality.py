"""The quality gate: what became of a rationale, and which ones a student may learn from."""

from collections.abc import Sequence

from stages.distil.answers import conclusion, same
from stages.distil.parameters import STATUSES

OK, EMPTY, TRUNCATED, CONTRADICTS, INCONCLUSIVE = STATUSES


def rationale_status(
    rationale: str, finish_reason: str, options: Sequence[str], answer: str
) -> str:
    """Return `ok`, or what is wrong with a rationale.

    It may be empty, cut off by the token limit, contradict the answer (its last sentence names
    another option last), or be inconclusive (there are options, its last sentence names none).
    """
    if not rationale.strip():
        return EMPTY
    if finish_reason == "length":
        return TRUNCATED
    concluded = conclusion(rationale, options)
    if concluded is None:
        return INCONCLUSIVE if options else OK
    return OK if same(concluded, answer) else CONTRADICTS
