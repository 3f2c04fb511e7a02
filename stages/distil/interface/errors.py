"""The one exception that a user is meant to read, and how it is shown."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Something the user can mend: one line that says where, what was expected and what to do."""


def report_errors(name: str, debug: bool, action: Callable[[], None]) -> int:
    """Run the action; print a user's error as one line; return the exit code."""
    try:
        action()
    except (UserError, OSError) as error:
        if debug:
            raise
        print(f"{name}: error: {_one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    return 0


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return " ".join(str(error).split())
