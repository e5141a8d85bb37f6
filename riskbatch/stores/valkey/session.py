"""
A replica's calls of the engine: numbered, each of them in time; and how a replica joins, again if need be.

The engine may be away, have lost its memory, or have a clock that was stepped. All of that shows in an answer, or in
that there is none; then the replica joins once more, with what it knows, before it does anything else.
"""

import asyncio
import logging
import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from ...log import EventLog
from .clock import Anchor
from .engine import Engine, identity, microseconds

TOLERANCE = 0.05  # seconds: a permit comes back so much later, and a call may come so much late
_MOST_TOLERANCE = 1.0  # seconds, for an engine that is always late


class Untimely(Exception):  # noqa: N818 - it passes
    """A call was not carried out, because it came late or the engine's clock was stepped."""


class Session:
    """
    One replica's calls. They are made one after the other.

    Args:
        engine: Of the fleet.
        common: What every call tells.
        event_log: For what a person should know; ends with this.

    Attributes:
        name: Of the replica.
        fleet: The name of the fleet.
        joined: Whether the engine knows what this replica remembers.
        lost_state: The engine does not know what it has answered, and must be given back what is known here.
        away: Why the engine cannot be reached; `None` if it can.
        full: Why the engine admits nothing; `None` if it does.
    """

    def __init__(self, engine: Engine, common: Mapping[str, object], event_log: EventLog) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._event_log = event_log
        self.name: str = identity()
        self.fleet: str = engine.name
        self._common = {"replica": self.name, **common}
        self._epoch: str | None = None
        self._called = self._answered = 0  # calls: that were made; the last that was answered
        self._untimely = 0  # calls in a row that came too late to be carried out
        self.joined: bool = False
        self.lost_state: bool = False
        self.away: str | None = None
        self.full: str | None = None

    async def close(self) -> None:
        """Give up the connection."""
        self._event_log.close()
        await self._engine.close()

    @property
    def anchor(self) -> Anchor:
        """The reading of the engine's clock in the last answer."""
        return self._engine.anchor

    async def call(self, step: str, given: Mapping[str, object] | None = None, signals: Sequence[str] = ()) -> Any:
        """
        Carry out a *step* of the script, and return what it tells.

        Raises:
            EngineAway: It may have been carried out, or not; a step that must not be done twice knows a repeated call.
            Untimely: It was not.
            StoreError: The engine refuses.
        """
        self._called += 1
        known = {"call": self._called, "answered": self._answered, "epoch": self._epoch or "", **self._timely()}
        told = {name: value for name, value in {**self._common, **known, **(given or {})}.items() if value is not None}
        reply = await self._engine.call(step, told, signals)
        if self._engine.clock.step:
            self.joined = False
        if "untimely" in reply:
            self._untimely += 1
            raise Untimely
        self._untimely = 0
        self._answered = self._called
        if reply["forgot"] and self._epoch is not None:
            self.lost_state, self.joined = True, False
        return reply

    def _timely(self) -> dict[str, object]:
        """Return the span in which a call must be carried out, which is the wider the more often calls came late."""
        span = self._engine.clock.span(self._loop.time())
        if span is None:
            return {}
        late = min(TOLERANCE * 2.0**self._untimely, _MOST_TOLERANCE)
        return {"not_before": math.floor(span[0] * 1e6), "not_after": math.ceil((span[1] + late) * 1e6)}

    async def join(self, permits: Sequence[tuple[str, float]], rate: str) -> str | None:
        """
        Tell the engine the *permits* that are out (names, and seconds until they come back) and the *rate*.

        Returns from where on the fleet's notices are news to this replica; `None` if from where it was.
        """
        correction = self._correction() if self._engine.clock.step else {}
        given = {"new_epoch": secrets.token_hex(8), "rate": rate, **correction}
        out = [(name, microseconds(after)) for name, after in permits]
        told = await self.call("join", {**given, "permits": out})
        is_first, self._epoch = self._epoch is None, told["epoch"]
        if is_first:
            self._warn_of(told)
            return str(told["last"])
        if self.lost_state:
            text = "the fleet's engine has lost some of its memory, and is given back what is known here"
            self._event_log.emit(logging.ERROR, "engine_forgot", text)
            return "0-0"
        return None

    def note_away(self, reason: str) -> None:
        """Note that the engine cannot be reached."""
        self.joined = False
        if self.away is None:
            text = f"the fleet's engine is away, nothing is sent: {reason}"
            self._event_log.emit(logging.WARNING, "engine_away", text, reason=reason)
        self.away = reason

    def note_full(self, reason: str | None) -> None:
        """Note whether the engine admits nothing."""
        if reason is not None and self.full is None:
            text = f"the fleet's engine is full, and admits nothing: {reason}"
            self._event_log.emit(logging.WARNING, "engine_full", text, reason=reason)
        self.full = reason

    @property
    def hindrance(self) -> str | None:
        """Why nothing can be admitted now; `None` if something can."""
        return self.away or self.full

    def note_back(self) -> None:
        """Note that the engine answers again."""
        if self.away is not None:
            text = f"the fleet's engine answers again, after: {self.away}"
            self._event_log.emit(logging.WARNING, "engine_back", text, reason=self.away)
        self.away = None

    def _correction(self) -> dict[str, object]:
        clock = self._engine.clock
        text = f"the clock of the fleet's engine was stepped by {clock.step:.3f} s, which is corrected"
        self._event_log.emit(logging.WARNING, "engine_clock", text, step=clock.step)
        return {"step": microseconds(clock.step), "skew_from": clock.skew, "not_before": None, "not_after": None}

    def _warn_of(self, told: Mapping[str, Any]) -> None:
        if not told["append_only"] or told["eviction"] not in ("noeviction", "unknown"):
            found = f"appendonly {'yes' if told['append_only'] else 'no'}, maxmemory-policy {told['eviction']}"
            text = f"the fleet's engine may lose signals: {found}"
            self._event_log.emit(logging.WARNING, "engine_unsafe", text, reason=found)
