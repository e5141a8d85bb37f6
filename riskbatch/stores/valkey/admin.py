"""
What operators do with a fleet's queue: list, count, export, import and drop. All of it while the replicas run.
"""

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from attrs import frozen

from ...errors import StoreError
from ...signals import RiskLevel, RiskSignal
from .engine import Engine, EngineAway, encoded, identity, microseconds
from .statistics import FleetStatistics
from .window import observed

_SLICE = 250  # signals a call
_NO_NOTICES = "9999999999999-0"  # a place in the stream that is never reached
_LEASE = 10.0  # seconds, twice which a replica counts as alive


@frozen
class Shared:
    """
    A signal in a fleet's queue.

    Attributes:
        row: What `drop` takes.
        signal: The signal.
        enqueued_at: When it came.
        attempts: How many requests have carried it.
        may_have_arrived: Okta may have it already.
        waits: "ready", "held back", "to be probed" or "in flight".
    """

    row: int
    signal: RiskSignal
    enqueued_at: datetime
    attempts: int
    may_have_arrived: bool
    waits: str


async def ls(engine: Engine, level: RiskLevel | None = None) -> AsyncIterator[Shared]:
    """Yield what is in the queue, of one *level* or of all: the ready in the order of sending, then the others."""
    for rank, each in enumerate(RiskLevel, 1):
        after = "-inf"
        while level in (None, each) and (rows := (await _call(engine, "list", level=rank, after=after))["signals"]):
            for row in rows:
                yield _shared(row)
            after = rows[-1][1]
    for row in (await _call(engine, "list"))["signals"] or ():
        if level in (None, (shared := _shared(row)).signal.risk_level):
            yield shared


def _shared(row: Sequence[object]) -> Shared:
    number, _, came, _, attempts, arrived, text, waits = map(str, row)
    signal = RiskSignal.from_json(json.loads(text))
    enqueued_at = datetime.fromtimestamp(int(came) / 1e6, UTC)
    return Shared(int(number), signal, enqueued_at, int(attempts), arrived == "1", waits)


async def stats(engine: Engine) -> FleetStatistics:
    """Return what the fleet holds, and who holds it."""
    told = await _call(engine, "statistics")
    return FleetStatistics.of(told["fleet"], observed(told["view"], engine.anchor), engine.anchor.here)


async def names(engine: Engine) -> list[str]:
    """Return the names of all fleets that *engine* has ever had, whichever of them it was opened for."""
    return await engine.fleets()


async def import_signals(engine: Engine, signals: Iterable[RiskSignal]) -> int:
    """Add *signals* to the queue whatever its capacity, and return how many; importing twice adds them twice."""
    count, left, replica = 0, iter(signals), identity()
    while chunk := list(islice(left, _SLICE)):
        given: dict[str, object] = {"units": [len(chunk)], "when_full": "wait", "capacity": 10**12}
        given |= {"number": count, "replica": replica, "after": _NO_NOTICES}
        told = await _call(engine, "admit", [encoded(signal) for signal in chunk], **given)
        count += sum(told["counts"])
    await _call(engine, "leave", replica=replica)
    return count


async def drop(engine: Engine, *, row: int | None = None, level: RiskLevel | None = None) -> int:
    """
    Remove what waits and fulfils every condition that is given, and return how many; what is in flight stays.

    The receipts of dropped signals are settled as `Abandoned`.
    """
    found = [shared.row async for shared in ls(engine, level) if row in (None, shared.row)]
    dropped = 0
    for start in range(0, len(found), _SLICE):
        ids = [str(number) for number in found[start : start + _SLICE]]
        dropped += (await _call(engine, "drop", ids=ids))["dropped"]
    return dropped


async def _call(engine: Engine, step: str, signals: Sequence[str] = (), **given: object) -> Any:
    common = {"lease": microseconds(_LEASE), "coalesce": False, "call": 1, "answered": 0, "epoch": ""}
    try:
        return await engine.call(step, common | given, signals)
    except EngineAway as away:
        raise StoreError(str(away)) from None
