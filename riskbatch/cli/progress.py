"""The progress line of `riskbatch send`: what waits, how long it takes, and when the next request may go."""

import math
from collections import deque

import riskbatch as rb

from .terminal import duration, printable


class Progress:
    """
    Looks at a client's statistics again and again.

    Args:
        limit: The budget that the client was given.
    """

    def __init__(self, limit: rb.RateLimit) -> None:
        self._period = limit.period
        self._accepted: deque[tuple[float, int]] = deque()  # instants and what was accepted until then, of a minute
        self._returns: deque[float] = deque(maxlen=limit.requests)  # when permits come back, as far as it was seen
        self._answered = 0  # requests
        self._end: tuple[int, float] | None = None  # requests so far, and the end that was foreseen then
        self._now = 0.0

    def look(self, now: float, found: rb.Statistics) -> None:
        """Note what the client says at *now*."""
        self._now = now
        self._accepted.append((now, found.accepted))
        while self._accepted[0][0] < now - 60:
            self._accepted.popleft()
        answered = found.requests - found.requests_in_flight
        self._returns.extend([now + self._period] * (answered - self._answered))
        self._answered = answered

    def parts(
        self, found: rb.Statistics, refused: int, unread: float, *, is_read: bool, is_size_known: bool, short: bool
    ) -> list[str]:
        """
        Return what there is to say, the most important first.

        Args:
            found: The client's statistics.
            refused: Signals that were not accepted.
            unread: Signals that are still to be read, as far as that can be told.
            is_read: Whether there are none.
            is_size_known: Whether the feed has an end that can be told.
            short: For a terminal, where room is scarce.
        """
        waiting = " ".join(
            f"{level.value[0] if short else level.value} {count}" for level, count in found.waiting_by_level.items()
        )
        parts = [f"waiting {waiting}", f"{found.accepted} accepted"]
        if found.trouble is not None:
            parts.append(printable(f"{'paused' if found.paused else 'slowed down'}: {found.trouble}", 200))
        if refused > 0:
            parts.append(f"{refused} refused")
        waits = found.waiting + found.in_flight > 0
        if waits and not found.paused and (is_read or is_size_known):
            parts.append(f"{duration(self._seconds_left(found, unread, is_read=is_read))} left")
        if (wait := self._next_request_after(found)) > 0 and waits:
            parts.append(f"next request in {duration(max(1.0, wait))}")
        return [*parts, f"{found.permits}/{found.limit} permits", f"{self._rate():.0f}/min"]

    def _rate(self) -> float:
        """Return what was accepted per minute of late."""
        (since, before), (now, accepted) = self._accepted[0], self._accepted[-1]
        return 60 * (accepted - before) / (now - since) if now > since else 0.0

    def _next_request_after(self, found: rb.Statistics) -> float:
        """Return the seconds until the next request may leave; 0.0 if it is about to."""
        wait = 0.0
        if found.permits <= 0 and not found.requests_in_flight:
            wait = next((at - self._now for at in self._returns if at > self._now), 0.0)
        return max(wait, found.resumes_after)

    def _seconds_left(self, found: rb.Statistics, unread: float, *, is_read: bool) -> float:
        """Return how long the rest should take. It is foreseen anew with each request."""
        if self._end is None or self._end[0] != found.requests:
            self._end = found.requests, self._now + self._foreseen(found, unread, is_read=is_read)
        return max(0.0, self._end[1] - self._now, found.resumes_after)

    def _foreseen(self, found: rb.Statistics, unread: float, *, is_read: bool) -> float:
        a_request = max(20.0, found.accepted / max(1, found.requests))  # more if signals share events
        windows = max(0.0, math.ceil((found.waiting + unread) / a_request) - found.permits) / found.limit
        # The end of a feed is sent without spacing, so that its requests come in one burst a window.
        return self._period * (math.ceil(windows) if is_read else windows)
