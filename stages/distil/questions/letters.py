"""The letters of options, as data sets write them."""

import re

# In any brackets, quotes or emphasis, perhaps after a word: `A`, `(a)`, `A.`, `**A**`, `Option A`.
LETTER = re.compile(
    r"(?:(?:option|choice|answer)(?![A-Z]))?[\s:\"'*_(\[]*([A-Z])[\s\"'*_)\].,:;]*",
    re.ASCII | re.IGNORECASE,
)


def letter_of(text: str) -> str | None:
    """Return the letter, in upper case, that a text is; None if it is anything else.

    Brackets, quotes and punctuation do not count, nor do `Option`, `Choice` and `Answer` before it.
    """
    match = LETTER.fullmatch(text)
    return match[1].upper() if match else None
