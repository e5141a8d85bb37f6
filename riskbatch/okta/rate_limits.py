"""
The `X-Rate-Limit-*` headers of an answer. Pure: the seconds until a reset are counted on the server's own clock.

Source: Okta's rate limit pages (read 2026-08-21), below [LIMITS].
"""

import re
from datetime import datetime
from itertools import zip_longest

from attrs import frozen

from .http import Headers, date_of

_NAMES = ("X-Rate-Limit-Limit", "X-Rate-Limit-Remaining", "X-Rate-Limit-Reset")
_MAX_SETS = 8  # that are read of one answer; Okta has been seen to send two


@frozen
class Budget:
    """
    One set of rate-limit headers.

    Attributes:
        limit: Requests a window, for whoever the answer was for.
        remaining: Requests left in the server's window.
        resets_after: Seconds on the server's own clock until the window resets, at least 0; `None` if it cannot be
            told.
    """

    limit: int
    remaining: int
    resets_after: float | None

    def is_concurrency(self) -> bool:
        """Tell the concurrency limit, whose reset time means nothing, from the rate limit [LIMITS]."""
        return self.limit == 0 and self.remaining == 0


def budgets(headers: Headers) -> list[Budget]:
    """
    Read the `X-Rate-Limit-*` headers; none or an unreadable set gives nothing.

    Okta has been seen to send two sets in one answer (okta-sdk-java issue 259), so the first few are returned; a proxy
    may have joined them with commas.
    """
    date = date_of(headers)
    sets = zip_longest(*(_values(headers, name) for name in _NAMES), fillvalue="")
    return [
        Budget(int(limit), int(remaining), _resets_after(reset, date))
        for limit, remaining, reset in sets
        if _is_count(limit) and _is_count(remaining)
    ]


def _values(headers: Headers, name: str) -> list[str]:
    lines = headers.getall(name, [])[:_MAX_SETS]
    values = [value.strip() for line in lines for value in line.split(",", _MAX_SETS)[:_MAX_SETS]]
    return values[:_MAX_SETS]


def _is_count(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}", text) is not None


def _resets_after(reset: str, date: datetime | None) -> float | None:
    """Subtract the answer's own `Date`, so that a wrong clock on either side does not matter [LIMITS]."""
    if date is None or re.fullmatch(r"[0-9]{1,12}", reset) is None:
        return None
    return max(0.0, int(reset) - date.timestamp())
