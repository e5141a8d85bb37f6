"""
The decision of one replica: what leaves next, and when; made of a look, with the ordinary prioritizer and limiter.

Pure, but for the limiter's bucket. The engine keeps what waits and what is out; the rules about that are known here
alone. A decision is made in one piece, without an await after `depart`, so that it tells the window that it saw.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve, frozen

from ...batcher import Batch, Demand
from ...dispatcher import Terms, departs_at
from ...limiter import Limiter
from ...okta.risk_events import MAX_EVENTS
from ...prioritizer import Prioritizer
from ...receipts import Receipt
from ...signals import RiskLevel
from .window import View, adopt, tell, turns_of_suspects

NEAR = 0.05  # seconds: a permit that comes so soon is worth a look at what waits
_TURN = 0.002  # seconds between two replicas that want the same permit; some 20 round trips of a loopback
_MOST_TURN = 0.02  # seconds


@frozen
class Look:
    """
    What the engine showed of the queue.

    Attributes:
        view: Of the window.
        heads: The first of each lane: as many as one payload holds.
        suspects: The group that would be probed next, as the engine names it; empty if there is none.
        probed: Its signals.
        ready_at: When the next held-back signal becomes ready; infinity if none is held.
        again_at: When something may change by itself.
        alone: Whether no other replica lives.
        turn: Seconds that this replica lets others go first.
    """

    view: View
    heads: Sequence[list[Receipt]]
    suspects: str
    probed: list[Receipt]
    ready_at: float
    again_at: float
    alone: bool
    turn: float


def turn_of(told: Mapping[str, Any], replica: str) -> float:
    """Return the seconds that a *replica* lets others go first: each in its turn, which moves on with the version."""
    alive = sorted(told["fleet"]["alive"] or ())
    rank = alive.index(replica) if replica in alive else 0
    return min((rank + int(told["view"]["version"])) % max(1, len(alive)) * _TURN, _MOST_TURN)


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

    Attributes:
        payload: Signals that surely fill one.
    """

    def __init__(self, limiter: Limiter, subjects_per_event: int) -> None:
        self.limiter = limiter
        self.payload: int = MAX_EVENTS * subjects_per_event
        self._subjects = subjects_per_event

    def earliest(self, view: View, terms: Terms, now: float) -> float:
        """Return an instant before which nothing at all can leave, whatever waits."""
        adopt(self.limiter, view)
        urgent = Demand(RiskLevel.HIGH, full=True, full_of_high=True)
        return departs_at(self.limiter, urgent, evolve(terms, express=True), now, flushing=True)

    async def decide(self, look: Look, terms: Terms, now: float, *, flushing: bool) -> Plan | float:
        """
        Return what leaves now, or the instant at which something may; infinity if only a change can tell.

        It never suspends: it is a coroutine because the limiter's bucket is one.
        """
        adopt(self.limiter, look.view)
        line = self._fill(look, now)
        demand = evolve(line.demand(), high_before=look.view.high_before, high_last=look.view.high_last)
        # Others may still need what pace and reserve keep.
        terms = evolve(terms, draining=terms.draining and look.alone)
        at = departs_at(self.limiter, demand, terms, now, flushing=flushing)
        return at if at > now else await self._plan(look, line, demand, now)

    def _fill(self, look: Look, now: float) -> Prioritizer:
        """Return an ordinary line with what the engine showed. It comes in as what is put back, with its history."""
        line = Prioritizer(subjects_per_event=self._subjects)
        line.probes.probed_last, line.probes.passed_over = turns_of_suspects(look.view)
        for receipts in look.heads:
            line.put_back(receipts)
        if look.probed:
            line.suspect([look.probed])
        line.release(now)
        return line

    async def _plan(self, look: Look, line: Prioritizer, demand: Demand, now: float) -> Plan | float:
        batch = line.take(now)
        if not batch.receipts:  # all of it has expired, which the engine sees at the next look
            return now
        await self.limiter.depart(now)
        given = {
            "version": look.view.version,
            "ids": [str(receipt.sequence) for receipt in batch.receipts],
            "probe": batch.is_probe,
            "suspects": look.suspects,
            "waiting": _passed(batch, demand),
            "window": tell(self.limiter, look.view, line.probes.probed_last, line.probes.passed_over),
        }
        return Plan(batch, given)


def _passed(batch: Batch, demand: Demand) -> list[tuple[str, int]]:
    """Return how much waits of each level up to the last signal aboard: else one of higher rank has come since."""
    levels = list(RiskLevel)
    if demand.probe:
        assert demand.level is not None  # noqa: S101 - suspects have one
        return [("+inf", 0)] * levels.index(demand.level)
    aboard = [receipt.signal.risk_level for receipt in batch.receipts]
    last = batch.receipts[-1]
    higher = levels[: levels.index(last.signal.risk_level)]
    return [("+inf", aboard.count(level)) for level in higher] + [(str(last.place), aboard.count(aboard[-1]))]
