"""What the user is told: errors that the user can fix, and notes."""

import signal
import sys
import traceback
from collections.abc import Callable
from functools import cache

from stages.distil.interface.escaping import for_terminal


class UserError(Exception):
    """An error that the user can fix: one line with the place, the expectation and the fix."""


def report_errors(name: str, debug: bool, action: Callable[[], object]) -> int:
    """Run an action; print a `UserError` or `OSError` as one line; return the exit code.

    Ctrl-C, which until now ended the program (`stages/__init__.py`), interrupts the action.
    """
    ends = signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    if ends:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        action()
    except (UserError, OSError) as error:
        if debug:
            print(for_terminal(traceback.format_exc(), lines=True), end="", file=sys.stderr)
            return 1
        print(f"{name}: error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    finally:
        if ends:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    return 0


@cache
def tell_once(line: str) -> None:
    """Print a note on stderr, unless this process has printed the same before."""
    print(for_terminal(line), file=sys.stderr)


def one_line(error: BaseException) -> str:
    """Return an error's message as one line, in which nothing acts on a terminal."""
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror}"
    return for_terminal(message) or type(error).__name__
