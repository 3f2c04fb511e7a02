"""Bounds the work of Jinja templates, which come with models and from users' files."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any
from unittest import mock

from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

LONGEST_TEXT = 10_000_000  # characters that a template writes
LARGEST_NUMBER = 2**64
CHAT_TEMPLATES = "transformers.utils.chat_template_utils"  # which compiles those of models
MOST_STEPS = 1_000_000  # lines of templates that a rendering runs; prompts take some hundreds
TEMPLATE = "<template>"  # the name that Jinja gives the code of a template without a file


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which no product takes the memory or the time of a whole machine."""

    intercepted_binops = frozenset(("*", "**"))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Return left * right; raise `SecurityError` if it is too large, and for any power."""
        if operator == "**":
            raise SecurityError("** is not available in a prompt")
        for repeated, times in ((left, right), (right, left)):
            if isinstance(times, int):
                if isinstance(repeated, str | list | tuple):
                    check_length(len(repeated) * times)
                elif isinstance(repeated, int) and abs(repeated * times) > LARGEST_NUMBER:
                    raise SecurityError(f"a product is larger than {LARGEST_NUMBER:,}")
        return super().call_binop(context, operator, left, right)


def check_length(length: int) -> None:
    """Raise `SecurityError` if a text is longer than a prompt may be."""
    if length > LONGEST_TEXT:
        raise SecurityError(f"it writes more than {LONGEST_TEXT:,} characters")


@contextmanager
def limited_rendering() -> Iterator[None]:
    """Raise Jinja's `SecurityError` once the templates in this block have run MOST_STEPS lines.

    Loops inside loops, or macros that call themselves, would otherwise run for ever. Lines are
    counted rather than seconds, so that the same template fails on every machine. Chat templates
    that are compiled in this block run in the `Sandbox`.
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

    compiler = sys.modules.get(CHAT_TEMPLATES)
    name = ImmutableSandboxedEnvironment.__name__
    before = sys.gettrace()
    with mock.patch.object(compiler, name, Sandbox) if compiler else nullcontext():
        sys.settrace(enter)
        try:
            yield
        finally:
            sys.settrace(before)
