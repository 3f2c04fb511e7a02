"""A server's key: read from the environment, and left out of every text that is shown."""

import os
import re

from stages.distil.interface.errors import UserError

SHOWN = 300  # characters of a server's text in a message
READ = 2**16  # characters of a server's text that are looked at
PIECE = 6  # characters of a key that a text may not have in common with it
LEAST_SECRET = 16  # characters
QUOTES = "\"'`“”‘’"


class Secret:
    """The key in an environment variable; it has no representation that shows it."""

    def __init__(self, variable: str):
        """Read the key as people paste it, with a line end or quotes around it.

        Raises `UserError` if it has characters that no header may have.
        """
        pasted = os.environ.get(variable, "")
        self._key = pasted.strip().strip(QUOTES).strip()
        if not re.fullmatch(r"[!-~]*", self._key):
            where = next(i for i, sign in enumerate(self._key, 1) if not "!" <= sign <= "~")
            raise UserError(
                f"the environment variable {variable}: expected a key of ASCII letters, digits and "
                f"signs, found another character at place {where} of {len(self._key)}; copy the "
                "key again"
            )

    def headers(self) -> dict[str, str]:
        """Return the headers that carry the key, none if there is no key."""
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def masked(self, text: str) -> str:
        """Return a text with `***` for the key and for each piece of it of PIECE characters."""
        size = min(PIECE, len(self._key))
        if not size:
            return text
        key = self._key.casefold()
        pieces = {key[start : start + size] for start in range(len(key) - size + 1)}
        shown: list[str] = []
        end = 0  # of the part that is done
        for start in range(len(text) - size + 1):
            if text[start : start + size].casefold() in pieces:
                if start > end or not shown:  # otherwise it prolongs the piece before it
                    shown += [text[end:start], "***"]
                end = start + size
        return "".join([*shown, text[end:]])

    def taken_out(self, reply: str) -> str:
        """Return a model's text, which is kept and published, with `***` for a whole key in it.

        A key of fewer than LEAST_SECRET characters is one of the usual stand-ins, such as EMPTY.
        """
        return reply.replace(self._key, "***") if len(self._key) >= LEAST_SECRET else reply

    def presentable(self, text: str) -> str:
        """Return the first line of a server's text, safe to print: masked before it is cut."""
        printable = "".join(sign if sign.isprintable() else " " for sign in text[:READ])
        return self.masked(" ".join(printable.split()))[:SHOWN]
