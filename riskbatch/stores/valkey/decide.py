"""
The decision of one replica: what leaves next, and when; made of a look, with the ordinary prioritizer and limiter.

Pure, but for the limiter's bucket. The engine keeps what waits and what is out; which rules order that is known here
alone. A decision is made in one piece, without an await after `depart`: the window that it tells is the window that it saw.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import evolve, frozen

from ...batcher import Batch
from ...lanes import Entry
from ...limiter import Limiter
from ...okta.wire import MAX_EVENTS
from ...prioritizer import Demand, Prioritizer
from ...signals import RiskLevel
from .claims import Terms
from .window import View, adopt, tell, turns_of_suspects

NEAR = 0.05  # seconds: a permit that comes so soon is worth a look at what waits
_TURN = 0.002  # seconds between two replicas that want the same permit; some 20 round trips of a loopback
_MOST_TURN = 0.02  # seconds

Row = Sequence[Any]  # id, place, admitted, expires, attempts, arrived, json


@frozen
class Look:
    """
    What the engine showed of the queue.

    Attributes:
        view: Of the window.
        heads: The first rows of each lane: as many as one payload holds.
        suspects: The group that would be probed next, as the engine names it; empty if there is none.
        probed: Its rows.
        again_at: When something may change by itself.
        alone: Whether no other replica lives.
        turn: Seconds that this replica lets others go first.
    """

    view: View
    heads: Sequence[Sequence[Row]]
    suspects: str
    probed: Sequence[Row]
    again_at: float
    alone: bool
    turn: float

    @classmethod
    def of(cls, told: Mapping[str, Any], view: View, replica: str) -> "Look":
        """Read what the engine tells a *replica*."""
        alive = sorted(told["fleet"]["alive"] or ())
        rank = alive.index(replica) if replica in alive else 0
        turn = (rank + view.version) % max(1, len(alive)) * _TURN
        return cls(
            view=view,
            heads=[list(rows or ()) for rows in told["heads"]],
            suspects=told["suspects"],
            probed=list(told["probed"] or ()),
            again_at=view.anchor.at(int(told["again_at"])),
            alone=len(alive) <= 1,
            turn=min(turn, _MOST_TURN),
        )


@frozen
class Plan:
    """
    A decision, which the engine writes down if nothing that mattered has changed.

    Attributes:
        batch: What leaves.
        given: What the commit is told.
    """

    batch: Batch
    given: dict[str, object]


class Decider:
    """
    Decides for one replica.

    Args:
        limiter: A private one, which every decision sets to where the fleet stands.
        subjects_per_event: See batcher.py.
        entry_of: Makes of a row what stands in line; `None` if it cannot be read.
    """

    def __init__(self, limiter: Limiter, subjects_per_event: int, entry_of: Callable[[Row, View], Entry]) -> None:
        self.limiter = limiter
        self._subjects = subjects_per_event
        self._entry_of = entry_of

    @property
    def payload(self) -> int:
        """Signals that surely fill a payload."""
        return MAX_EVENTS * self._subjects

    def earliest(self, view: View, now: float, terms: Terms) -> float:
        """Return the earliest instant at which anything at all could leave."""
        adopt(self.limiter, view)
        urgent = Demand(RiskLevel.HIGH, full=True, full_of_high=True)
        return max(self.limiter.next_at(now, urgent, draining=terms.draining), terms.hold_until)

    async def decide(self, look: Look, terms: Terms, now: float, *, flushing: bool) -> Plan | float:
        """
        Return what leaves now, or the instant at which something may; infinity if only a change can tell.

        It never suspends: it is a coroutine because the limiter's bucket is one.
        """
        adopt(self.limiter, look.view)
        line = self._fill(look, now)
        demand = evolve(line.demand(), high_before=look.view.high_before, high_last=look.view.high_last)
        if demand.level is None:
            return math.inf
        at = self._next_at(now, demand, terms, alone=look.alone, flushing=flushing)
        return at if at > now else await self._plan(look, line, demand, now)

    def _next_at(self, now: float, demand: Demand, terms: Terms, *, alone: bool, flushing: bool) -> float:
        draining = terms.draining and alone  # others may still need what pace and reserve keep
        at = self.limiter.next_at(now, demand, flushing=flushing or terms.draining, draining=draining)
        if not (terms.express or draining):
            at = max(at, self.limiter.paced_at)
        return max(at, terms.hold_until, -math.inf if demand.level is RiskLevel.HIGH else terms.others_until)

    def _fill(self, look: Look, now: float) -> Prioritizer:
        """Return an ordinary line with what the engine showed. It comes in as what is put back, with its history."""
        line = Prioritizer(subjects_per_event=self._subjects)
        line._probed_last, line._passed_over = turns_of_suspects(look.view)
        for rows in look.heads:
            line.put_back([self._entry_of(row, look.view) for row in rows], -math.inf)
        if look.probed:
            line.suspect([[self._entry_of(row, look.view) for row in look.probed]])
        line.release(now)
        return line

    async def _plan(self, look: Look, line: Prioritizer, demand: Demand, now: float) -> Plan | float:
        batch = line.take(now)
        if not batch.entries:  # all of it has expired, which the engine sees at the next look
            return now
        await self.limiter.depart(now)
        turns = {"probed_last": line._probed_last, "passed_over": line._passed_over}
        given = {
            "version": look.view.version,
            "ids": [str(entry.row) for entry in batch.entries],
            "probe": batch.is_probe,
            "suspects": look.suspects,
            "waiting": _passed(batch, demand),
            "window": tell(self.limiter, look.view, **turns),
        }
        return Plan(batch, given)


def _passed(batch: Batch, demand: Demand) -> list[tuple[str, int]]:
    """Return how much waits of each level up to the last signal aboard: else one of higher rank has come since."""
    levels = list(RiskLevel)
    if demand.probe:
        assert demand.level is not None  # noqa: S101 - suspects have one
        return [("+inf", 0)] * levels.index(demand.level)
    aboard = [entry.signal.risk_level for entry in batch.entries]
    last = batch.entries[-1]
    higher = levels[: levels.index(last.signal.risk_level)]
    return [("+inf", aboard.count(level)) for level in higher] + [(str(last.place), aboard.count(aboard[-1]))]
