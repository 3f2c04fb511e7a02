"""How many requests a server gets at once, and when: fewer and later if it limits the rate."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

LONGEST_WAIT = 300.0  # seconds to wait for a server in all, without one completion in between
FIRST_WAIT = 0.5  # seconds, doubled at each wait in a row, if the server does not say how long
LONGEST_OWN_WAIT = 60.0


class Pace:
    """The turns of the requests to one server, at most `most` at once.

    After a refusal for the rate, the server gets half as many at once, and none before the time
    that it asks for. Completions raise the number slowly again, as TCP does.
    """

    def __init__(self, most: int):
        self._most = most
        self._allowed = float(most)
        self._active = 0
        self._resume = 0.0  # no request is sent before
        self._refused = 0.0  # when the latest wait began
        self._waits_in_a_row = 0
        self._waited = 0.0  # seconds since the last completion
        self._changed = asyncio.Condition()

    @property
    def at_once(self) -> int:
        """How many requests the server gets at once now."""
        return int(self._allowed)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[float]:
        """Wait until the server may get another request; yield the time of its turn."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._active < self.at_once)
            self._active += 1
        try:
            while (delay := self._resume - time.monotonic()) > 0:
                await asyncio.sleep(delay)
            yield time.monotonic()
        finally:
            self._active -= 1
            async with self._changed:
                self._changed.notify_all()

    def completed(self) -> None:
        """Note a completion."""
        self._allowed = min(self._most, self._allowed + 1 / self._allowed)
        self._waits_in_a_row, self._waited = 0, 0.0

    def wait(self, turn: float, asked: float | None, fewer: bool) -> float | None:
        """Send nothing for as long as the server asks, and then, if `fewer`, half as many at once.

        `turn` is that of the refused request: of all that were under way together only the first
        halves the number. `asked` is in seconds; None if the server does not say.

        Returns the seconds by which that prolongs the wait, or None if the waits in a row would
        exceed LONGEST_WAIT; then nothing changes.
        """
        now = time.monotonic()
        is_first = turn > self._refused
        own = min(FIRST_WAIT * 2**self._waits_in_a_row, LONGEST_OWN_WAIT) if is_first else 0.0
        resume = now + (own if asked is None else max(asked, FIRST_WAIT))
        longer = max(0.0, resume - max(self._resume, now))
        if self._waited + longer > LONGEST_WAIT:
            return None
        if is_first:
            self._refused = now
            self._waits_in_a_row += 1
            if fewer:
                self._allowed = max(1.0, self._allowed / 2)
        self._waited += longer
        self._resume = max(self._resume, resume)
        return longer
