"""The letters of options, as data sets write them: alone as an answer, or before an option."""

import re
import string

from stages.distil.language.appearance import appearance

# In any brackets, quotes or emphasis, perhaps after a word: `A`, `(a)`, `A.`, `**A**`, `Option A`.
LETTER = re.compile(
    r"(?:(?:option|choice|answer)(?![A-Z]))?[\s:\"'*_(\[]*([A-Z])[\s\"'*_)\].,:;]*",
    re.ASCII | re.IGNORECASE,
)
# Before a text: `A. heron`, `A) heron`, `(A) heron`; but not in `A.D. 79`.
MARK = re.compile(r"\(?([A-Za-z])\s?(?:\)\s*|\.\s+)")


def letter_of(text: str) -> str | None:
    """Return the letter, in upper case, that a text is; None if it is anything else.

    Brackets, quotes and punctuation do not count, nor do `Option`, `Choice` and `Answer` before it.
    """
    match = LETTER.fullmatch(text)
    return match[1].upper() if match else None


def split_letter(text: str) -> tuple[str, str]:
    """Return the letter before a text, in upper case or empty, and the text without it."""
    match = MARK.match(text)
    return (match[1].upper(), text[match.end() :]) if match else ("", text)


def without_letters(options: list[str]) -> list[str]:
    """Return options without the letters before them, if these are A, B, C and so on.

    If a letter is missing or out of order, or if nothing else tells two options apart, all options
    are returned as they are.
    """
    split = [split_letter(option) for option in options]
    if [letter for letter, _ in split] != list(string.ascii_uppercase[: len(options)]):
        return options
    texts = [text for _, text in split]
    forms = {appearance(text, lines=True) for text in texts}
    return options if "" in forms or len(forms) < len(texts) else texts
