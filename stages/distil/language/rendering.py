"""Bounds the work of Jinja templates, which come with models and from users' files."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from jinja2.exceptions import SecurityError

MOST_STEPS = 1_000_000  # lines of templates that a rendering runs; prompts take some hundreds
TEMPLATE = "<template>"  # the name that Jinja gives the code of a template without a file


@contextmanager
def limited_rendering() -> Iterator[None]:
    """Raise Jinja's `SecurityError` once the templates in this block have run MOST_STEPS lines.

    Loops inside loops, or macros that call themselves, would otherwise run for ever. Lines are
    counted rather than seconds, so that the same template fails on every machine.
    """
    steps = 0

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal steps
        steps += event == "line"
        if steps > MOST_STEPS:
            raise SecurityError(f"it runs more than {MOST_STEPS:,} lines; its loops are too long")
        return count

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        return count if frame.f_code.co_filename == TEMPLATE else None

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(before)
