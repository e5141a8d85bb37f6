"""
The window that a fleet shares: what the engine keeps of it, read into an ordinary `Limiter` and told from it.

What is out grows only in steps that raise the version: a commit, or a replica that joins with permits of its own.
A decision is made at a version at which it found a free permit, with instants that are never early; so at its commit,
which must find the same version, there still is one. The commit takes that permit in the same step of the engine, so
never are more out than a window allows, whichever replica decides.
"""

import json
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from ...errors import StoreError
from ...limiter import Limiter, RateLimit
from .clock import Anchor

_LAYOUT = 1  # of what `tell` writes; a replica that reads another one does not send


@frozen
class View:
    """
    The window as the engine showed it.

    Attributes:
        version: Of the window, which a commit must find again.
        anchor: When the engine showed it.
        window: What `tell` told last; empty if nothing was told yet.
        returns: When answered permits come back, in microseconds of the engine.
        in_flight: Permits that are out with a request without an answer.
        trusted_at: Before this instant nothing leaves, as the engine has lost its memory; in microseconds.
        high_before, high_last: When the last two HIGH were admitted, on the loop clock.
    """

    version: int
    anchor: Anchor
    window: str = ""
    returns: Sequence[int] = ()
    in_flight: int = 0
    trusted_at: int = 0
    high_before: float = -math.inf
    high_last: float = -math.inf

    @classmethod
    def of(cls, told: Mapping[str, Any], anchor: Anchor) -> "View":
        """Read what the engine tells."""
        return cls(
            version=told["version"],
            anchor=anchor,
            window=told["window"],
            returns=sorted(int(text) for text in told["returns"] or ()),
            in_flight=told["in_flight"],
            trusted_at=int(told["trusted_at"]),
            high_before=anchor.at(int(told["high_before"])),
            high_last=anchor.at(int(told["high_last"])),
        )


def adopt(limiter: Limiter, view: View) -> None:
    """
    Let *limiter* stand where the fleet does.

    Raises:
        StoreError: A replica of another release has written what this one cannot read.
    """
    told = json.loads(view.window) if view.window else {"layout": _LAYOUT}
    if told["layout"] != _LAYOUT:
        raise StoreError("another release of riskbatch shares the fleet, and has another layout of its window")
    at, window = view.anchor.at, limiter.window
    window.limit = min(window.rate.requests, told.get("limit", window.rate.requests))
    window.in_flight = view.in_flight
    window.answered_returns = deque(at(instant) for instant in view.returns)
    window.used_by_others = told.get("others", 0)
    window.others_until = _instant(told.get("others_until"), view.anchor)
    limiter.held_until = max(
        _instant(told.get("held_until"), view.anchor), _instant(view.trusted_at or None, view.anchor)
    )
    limiter.paced_at = _instant(told.get("paced_at"), view.anchor)
    limiter.others_after = told.get("others_after", 0.0)


def _instant(told: int | None, anchor: Anchor) -> float:
    return -math.inf if told is None else anchor.at(told)


def tell(limiter: Limiter, view: View, probed_last: bool, passed_over: int) -> str:
    """Return what the engine shall keep of *limiter*, which has adopted *view*, and of the turns of suspects."""

    def instant(at: float) -> int | None:
        return None if at == -math.inf else view.anchor.engine_at(at)

    window = limiter.window
    told = {
        "layout": _LAYOUT,
        "limit": window.limit,
        "others": window.used_by_others,
        "others_until": instant(window.others_until),
        "held_until": instant(limiter.held_until),
        "paced_at": instant(limiter.paced_at),
        "others_after": limiter.others_after,
        "probed_last": probed_last,
        "passed_over": passed_over,
    }
    return json.dumps(told, separators=(",", ":"))


def turns_of_suspects(view: View) -> tuple[bool, int]:
    """Return whether the last request was a probe, and how many requests have passed suspects over since."""
    told = json.loads(view.window) if view.window else {}
    return told.get("probed_last", False), told.get("passed_over", 0)


def private(limiter: Limiter) -> Limiter:
    """Return a limiter with the settings of *limiter*, which other clients may share and nothing may overwrite."""
    return Limiter(limiter.window.rate, reserve=limiter.reserve, linger=limiter.linger)


def told_rate(rate: RateLimit) -> str:
    """Return what the engine shall keep of *rate*, for those who only look."""
    return json.dumps([rate.requests, rate.period])


def observed(told: Mapping[str, Any], anchor: Anchor) -> Limiter | None:
    """Return a limiter that stands where the fleet does, for one who only looks; `None` if no replica ever joined."""
    if not told["rate"]:
        return None
    limiter = Limiter(RateLimit(*json.loads(told["rate"])))
    adopt(limiter, View.of(told, anchor))
    return limiter
