"""Who may come in: room for unsettled signals, and the newcomers that wait for it, HIGH first."""

import asyncio
from collections import deque
from contextlib import suppress

from .errors import ClientClosed, QueueFull
from .signals import RiskLevel


class Capacity:
    """
    The places of one queue. A newcomer that waits is *promised* a place, which it takes when it runs.

    Args:
        places: The most signals that may be unsettled.

    Attributes:
        used: Signals that are unsettled.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self.used: int = 0
        self._promised = 0
        self._newcomers: dict[RiskLevel, deque[asyncio.Future[None]]] = {level: deque() for level in RiskLevel}
        self._closed: str | None = None

    @property
    def room(self) -> int:
        """Signals that could be admitted now, beyond those that were promised a place; below zero if overdrawn."""
        return self.places - self.used - self._promised

    def check_open(self) -> None:
        """
        Refuse a newcomer of a closed queue.

        Raises:
            ClientClosed: With the first reason given to `close`.
        """
        if self._closed is not None:
            raise ClientClosed(self._closed)

    def refusal(self) -> QueueFull:
        """Return the error of a newcomer for which there is no room."""
        return QueueFull(f"{self.places} signals are unsettled (capacity {self.places})")

    def promise(self, places: int) -> None:
        """Keep *places* for newcomers that will come in."""
        self._promised += places

    def promise_all(self, places: int) -> None:
        """
        Keep *places* for newcomers that will come in, all or none.

        Raises:
            QueueFull: There is no room for all.
        """
        if places > self.room:
            raise QueueFull(f"{places} signals find room for {max(0, self.room)}")
        self.promise(places)

    def release(self, places: int) -> None:
        """Keep *places* no more: their newcomers come in now, or never."""
        self._promised -= places

    def free(self, places: int) -> None:
        """Give back the *places* of signals that are settled."""
        self.used -= places

    async def wait(self, level: RiskLevel, timeout: float | None) -> None:
        """
        Wait for a promise of one place; the highest level is let in first.

        The place is promised, not given: a newcomer that is cancelled before it runs hands the promise on, and has
        surely admitted nothing.

        Args:
            level: Of the signal that is to come in.
            timeout: Seconds. `None` waits as long as it takes.

        Raises:
            QueueFull: No room came within *timeout*.
            ClientClosed: The queue was closed meanwhile.
        """
        turn = asyncio.get_running_loop().create_future()
        self._newcomers[level].append(turn)
        try:
            async with asyncio.timeout(timeout):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.release(1)
                self.let_in()
            with suppress(ValueError):  # not in line any more if it had its turn, or the queue was closed
                self._newcomers[level].remove(turn)
            if isinstance(error, TimeoutError):
                raise QueueFull(f"no room came within {timeout} s (capacity {self.places})") from None
            raise

    def let_in(self) -> None:
        """Promise the places that are free to those who wait, the highest level first."""
        for newcomers in self._newcomers.values():
            while newcomers and self.room > 0:
                turn = newcomers.popleft()
                if not turn.done():
                    self.promise(1)
                    turn.set_result(None)

    def close(self, reason: str) -> None:
        """Let nobody in any more: newcomers, those in line included, get `ClientClosed` with the first *reason*."""
        if self._closed is None:
            self._closed = reason
        for newcomers in self._newcomers.values():
            while newcomers:
                turn = newcomers.popleft()
                if not turn.done():
                    turn.set_exception(ClientClosed(self._closed))
