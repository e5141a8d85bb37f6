"""Why sending is slowed down or stopped, and when to try again. Instants are arguments, in seconds."""

import logging
import math
import random

from attrs import evolve, frozen

from .backoff import backoff
from .log import EventLog


@frozen
class Trouble:
    """
    Why sending is slowed down or stopped.

    Attributes:
        reason: In the server's words where it had any.
        denied: Everything stops but one probe at a time, because a person must fix something. Otherwise a HIGH that
            is ready still goes.
        failures: In a row.
        until: When the next try is due, on the loop clock.
        known_at: When the last failure came; an answer to an older request says nothing new.
        began_at: When the first of them came.
    """

    reason: str
    denied: bool
    failures: int
    until: float
    known_at: float
    began_at: float


class Health:
    """
    The failures in a row of one client's requests, and its windows that were used up; says each change once.

    Args:
        event_log: Where it is said.
        first: The longest wait after the first failure, in seconds; it doubles with each further one.
        most: The longest wait, in seconds.

    Attributes:
        trouble: What the last answer was, if it was a failure.
    """

    def __init__(self, event_log: EventLog, *, first: float, most: float) -> None:
        self._event_log = event_log
        self._first = first
        self._most = most
        self.trouble: Trouble | None = None
        self._throttled_at: float | None = None  # since when the window has been used up: a row of 429s is one line

    def failed(
        self, reason: str, departed_at: float, now: float, waiting: int, *, denied: bool = False, most: float = math.inf
    ) -> float:
        """
        Note the failure of a request and return when to try again, at *most* seconds from now.

        Failures of requests that left together count as one.
        """
        old = self.trouble
        if old is not None and departed_at < old.known_at and denied == old.denied:
            return max(old.until, now)
        failures = old.failures + 1 if old is not None else 1
        until = now + backoff(failures, self._first, min(most, self._most), random.random())
        self.trouble = Trouble(reason, denied, failures, until, now, now if old is None else old.began_at)
        if old is None or old.denied != denied or (denied and old.reason != reason):
            event = "paused" if denied else "slowed"
            state = "paused until the server accepts again" if denied else "slowed down"
            text = f"sending is {state}: {reason}"
            self._event_log.emit(logging.WARNING, event, text, reason=reason, waiting=waiting)
        return until

    def throttled(self, now: float, held_until: float, waiting: int, limit: int) -> None:
        """Note that the requests of a window are used up until *held_until*."""
        if self._throttled_at is None:
            self._throttled_at = now
            text = f"the requests of this window are used up; nothing is sent for {held_until - now:.0f} s"
            found = {"resumes_after": held_until - now, "waiting": waiting, "limit": limit}
            self._event_log.emit(logging.WARNING, "throttled", text, **found)

    def succeeded(self, now: float, held_until: float) -> None:
        """Note that a request was answered; the server holds all others until *held_until*."""
        if self.trouble is not None:
            reason, after = self.trouble.reason, now - self.trouble.began_at
            text = f"sending again, after {after:.0f} s of: {reason}"
            self._event_log.emit(logging.WARNING, "resumed", text, reason=reason, after=after)
            self.trouble = self._throttled_at = None
        elif self._throttled_at is not None and now >= held_until:
            after = now - self._throttled_at
            text = f"sending again, {after:.0f} s after the requests of a window were used up"
            self._event_log.emit(logging.INFO, "resumed", text, reason=None, after=after)
            self._throttled_at = None

    def end_soon(self) -> None:
        """Try again at once, and after short waits from now on: a long one would outlast the time that is left."""
        self._most = min(self._most, 2 * self._first)
        if self.trouble is not None:
            self.trouble = evolve(self.trouble, until=-math.inf)
