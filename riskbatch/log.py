"""
What the log of `riskbatch` says: a line for each change of state, none per signal, and few however a server behaves.

The `extra` of a line says for programs what its text says for people: `riskbatch_event` names the change, and all
other fields have the same prefix, which no `LogRecord` and no other library has.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

logger = logging.getLogger("riskbatch")


class Event(NamedTuple):
    """
    What one kind of line says; the guide for operators prints these.

    Attributes:
        level: The level, and the other one that it has in a case that is named.
        meaning: What happened.
        fields: Those that it may have, without their prefix; lines of an `EventLog` have `org` and `held_back` too.
    """

    level: str
    meaning: str
    fields: str = ""


# All lines that there are; a test compares this with the calls in the code.
EVENTS = {
    "opened": Event("INFO", "the client was entered; so many signals were in its store", "waiting limit"),
    "limit": Event("INFO", "the server's headers allow another number of requests", "limit before"),
    "throttled": Event(
        "WARNING", "429, or others have used up the window; nothing is sent", "resumes_after waiting limit"
    ),
    "slowed": Event("WARNING", "failures that should pass; fewer requests are sent", "reason waiting"),
    "paused": Event("WARNING", "nothing is sent until somebody fixes the reason", "reason waiting"),
    "resumed": Event("WARNING (INFO after `throttled`)", "a request was accepted again", "reason after"),
    "refused": Event("WARNING", "Okta refused a signal for what it is; one line a minute", "code reason status"),
    "signal_refused": Event("DEBUG", "the same, for each signal", "code reason"),
    "token_refused": Event("WARNING", "the service app gets no access token", "reason denied"),
    "token_renewed": Event("WARNING", "the service app has an access token again", "reason"),
    "scope_missing": Event("WARNING", "the app asks for scopes that were not granted", "scopes"),
    "not_admitted": Event("WARNING", "a signal of another thread was not admitted", "reason error"),
    "hook_failed": Event("ERROR", "`on_settled` raised"),
    "store_failed": Event("ERROR", "the store cannot be read or written", "reason count"),
    "store_recovered": Event("WARNING", "the store can be written again"),
    "store_rebuilt": Event(
        "WARNING", "indexes of the file were damaged and are made anew; its signals are whole", "reason"
    ),
    "engine_away": Event("WARNING", "a fleet's engine does not answer, or refuses; nothing is sent", "reason"),
    "engine_back": Event("WARNING", "the engine answers again", "reason"),
    "engine_clock": Event("WARNING", "the engine's clock was stepped; the fleet corrects it", "step"),
    "engine_full": Event("WARNING", "the engine is full and admits nothing", "reason"),
    "engine_forgot": Event("ERROR", "the engine lost data; this replica gives back what it knows"),
    "engine_unsafe": Event("WARNING", "the engine's settings allow it to lose signals", "reason"),
    "defect": Event("ERROR", "a request failed in an unexpected way; its signals wait again"),
    "crashed": Event("ERROR", "the sender failed, which is a defect; the client is closed"),
    "draining": Event("INFO (WARNING after Ctrl-C)", "the block is left; so many signals wait", "waiting timeout"),
    "closed": Event(
        "INFO (WARNING if signals are lost)",
        "the client is closed; one field for each outcome",
        "reason accepted rejected expired shed superseded abandoned",
    ),
}

# A server that changes its mind with every request would be 60 lines a minute. Ten tell a person what happens; from
# then on the newest state is said once a minute, with the number of changes in between.
_BURST = {"refused": 1.0}  # of these the first, and then one line a minute
_USUAL_BURST = 10.0
SELDOM = 60.0  # seconds for one line


def log_fields(event: str, **found: object) -> dict[str, object]:
    """Return the `extra` of a line that says *event*."""
    return {f"riskbatch_{name}": value for name, value in {"event": event, **found}.items()}


class EventLog:
    """
    The lines about one client's sending.

    Args:
        org: The URL of the org, which begins each line.
    """

    def __init__(self, org: str) -> None:
        self._org = org
        self._throttles: dict[str, LogThrottle] = {}  # each made when it is needed

    def emit(self, level: int, event: str, text: str, **found: object) -> None:
        """Write a line now, or within a minute, unless a newer one of its kind takes its place until then."""
        if logger.isEnabledFor(level):
            kind = event if event in _BURST else "state"
            if kind not in self._throttles:
                self._throttles[kind] = LogThrottle(_BURST.get(event, _USUAL_BURST))
            self._throttles[kind].emit(partial(self._write, level, event, text, found))

    def _write(self, level: int, event: str, text: str, found: dict[str, object], held_back: int) -> None:
        more = f" (and {held_back} such changes before)" if held_back else ""
        extra = log_fields(event, org=self._org, held_back=held_back, **found)
        logger.log(level, "%s: %s%s", self._org, text, more, extra=extra)

    def close(self) -> None:
        """Write what is held back."""
        for tap in self._throttles.values():
            tap.close()


class LogThrottle:
    """A token bucket that keeps the newest line it had no token for."""

    def __init__(self, burst: float) -> None:
        self._burst = self._tokens = burst
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time()
        self._held: Callable[[int], None] | None = None
        self._held_back = 0
        self._timer: asyncio.TimerHandle | None = None

    def emit(self, line: Callable[[int], None]) -> None:
        """Write *line* now, or when there is a token for it, unless a newer one takes its place."""
        now = self._loop.time()
        self._tokens = min(self._burst, self._tokens + (now - self._at) / SELDOM)
        self._at = now
        if self._timer is None and self._tokens >= 1.0:
            self._tokens -= 1.0
            line(0)
            return
        self._held_back += self._held is not None
        self._held = line
        if self._timer is None:
            self._timer = self._loop.call_at(now + (1.0 - self._tokens) * SELDOM, self._release)

    def _release(self) -> None:
        self._timer = None
        self._tokens, self._at = 0.0, self._loop.time()
        held, count, self._held, self._held_back = self._held, self._held_back, None, 0
        if held is not None:
            held(count)

    def close(self) -> None:
        """Write the line that is held back, if there is one."""
        if self._timer is not None:
            self._timer.cancel()
            self._release()
