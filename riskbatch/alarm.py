"""What wakes the sender."""

import asyncio
import math


class Alarm:
    """Wakes the one task that waits for a change, also if it did not wait yet."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rung = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Something has changed."""
        self._rung = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def silence(self) -> None:
        """Whoever waits is about to look at all that has changed until now."""
        self._rung = False

    async def wait(self, until: float) -> None:
        """Wait for `ring`, at most until the loop clock shows *until*; infinity waits for `ring` alone."""
        if self._rung:
            return
        self._waiter = self._loop.create_future()
        timer = self._loop.call_at(until, self.ring) if until < math.inf else None
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
