"""Texts from outside, escaped for where they are shown: terminal, Markdown, CSV, HTML."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

# Control characters, what counts as a line break, changes of direction, halves of surrogate pairs.
_OBEYED = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_MARKDOWN = {ord(mark): f"\\{mark}" for mark in "\\`*_[]|#~$"} | {
    ord("&"): "&amp;",
    ord("<"): "&lt;",
    ord(">"): "&gt;",
}
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_FORMULA = ("=", "+", "-", "@", "\t", "\n", "＝", "＋", "－", "＠")


def for_terminal(text: str, lines: bool = False) -> str:
    r"""Return a text whose control characters are shown as escapes, such as `\x1b`.

    With `lines`, line breaks and tabs stay; otherwise any white space becomes one space.
    """
    if not lines:
        return _OBEYED.sub(_escape, " ".join(text.split()))
    return _OBEYED.sub(lambda match: match[0] if match[0] in "\n\t" else _escape(match), text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def cut(text: str, length: int) -> str:
    """Return a text, of a longer one the first `length` characters and a mark."""
    return text if len(text) <= length else f"{text[:length]} …"


def for_markdown(text: str) -> str:
    """Return a text on one line without a meaning in Markdown, and in the HTML made of it."""
    return for_terminal(text).translate(_MARKDOWN)


def for_csv(value: Any) -> Any:
    """Return the value of a cell that no spreadsheet takes for a formula; a number stays."""
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    text = for_terminal(value, lines=True)  # a carriage return would end the row
    return f"'{text}" if text.startswith(_FORMULA) else text


def html_templates(folder: Path) -> "Environment":
    """Return a folder's templates, which escape what they show and refuse missing values."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # few commands need it

    return Environment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
