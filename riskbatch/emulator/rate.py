"""
The org's rate limit: which calls count, which are refused, and the rate headers.

Sources, read 2026-08-21: developer.okta.com/docs/reference/rate-limits, /rl2-monitor, /rl2-token-oauth.
"""

import math
from collections import deque

from .errors import Refused
from .messages import Headers
from .options import RateOptions

_WIDE_LIMIT = 600  # the enclosing /api/v1 bucket of an Enterprise org (old rate-limit table)


class RateWindow:
    """
    The calls that count at present.

    Args:
        options: The limits; they may change between two calls.
    """

    def __init__(self, options: RateOptions) -> None:
        self._options = options
        self._calls: deque[tuple[float, str]] = deque()
        self._ends = -math.inf
        self._reset = 0.0

    def spend(self, count: int, now: float, wall: float) -> None:
        """Use up *count* calls, as other tokens on the same bucket would."""
        self._roll(now, wall)
        self._calls.extend([(now, "others")] * count)

    def count(self, principal: str, now: float, wall: float) -> Headers:
        """
        Count one call and return its rate headers, or refuse it with 429.

        A refused call uses no quota. Okta may well count it, but in a fixed window that makes no difference.
        """
        self._roll(now, wall)
        options = self._options
        everyone = [at for at, _ in self._calls]
        own = [at for at, who in self._calls if who == principal]
        ceiling = max(1, math.floor(round(options.limit * options.principal_share, 6)))
        own_room, org_room = ceiling - len(own), options.limit - len(everyone)
        room = min(own_room, org_room)
        oldest = next(iter(own if own_room <= org_room else everyone), now)
        reset = self._reset if options.window == "fixed" else wall + oldest + options.period - now
        limit, shown = (ceiling, room) if options.header_limit == "principal" else (options.limit, org_room)
        if room <= 0:
            raise Refused(429, "E0000047", headers=self.headers(limit, 0, reset))
        self._calls.append((now, principal))
        return self.headers(limit, shown - 1, reset)

    def headers(self, limit: int, remaining: int, reset: float) -> Headers:
        """Return the rate headers. Reset is whole seconds, rounded down, so a client must add one, as Okta advises."""
        sets = [(limit, remaining)]
        if self._options.duplicate_headers:
            sets.insert(0, (_WIDE_LIMIT, max(0, _WIDE_LIMIT - len(self._calls))))
        whole_reset = int(reset + self._options.clock_skew)
        return tuple(
            (f"X-Rate-Limit-{name}", str(value))
            for limit, remaining in sets
            for name, value in (("Limit", limit), ("Remaining", remaining), ("Reset", whole_reset))
        )

    def _roll(self, now: float, wall: float) -> None:
        """Forget the calls that no longer count at *now*."""
        period, phase = self._options.period, self._options.phase
        if self._options.window == "sliding":
            while self._calls and self._calls[0][0] + period <= now:
                self._calls.popleft()
        elif now >= self._ends:
            self._calls.clear()
            start = now if phase is None else now - (now - phase) % period
            self._ends = start + period
            self._reset = (
                wall + self._ends - now
            )  # once a window: computed anew, the jitter of two clocks would move it
