"""What the engine shows a replica: one look, read into the objects of the ordinary line and window."""

import asyncio
import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field

from ...errors import InvalidSignal
from ...limiter import Limiter
from ...log import log_fields
from ...receipts import Receipt
from ...signals import RiskSignal
from .admission import Admissions
from .claims import Claims
from .decide import Look, turn_of
from .session import Session
from .statistics import FleetStatistics
from .window import View, adopt

logger = logging.getLogger("riskbatch")

_SLICE = 200  # signals that are read between two turns of the event loop: about 2 ms


@define(eq=False)
class Looks:
    """
    Looks at the engine, and says in passing that the replica lives.

    Args:
        session: The calls of this replica.
        limiter: Which adopts what is seen, for the statistics.
        claims: What is in flight from here; a look renews it.
        admissions: Hear of room in the fleet, and know the receipts that were given out here.

    Attributes:
        view: Of the window, as of the last look.
        statistics: What the fleet does, as of the last look.
    """

    _session: Session
    _limiter: Limiter
    _claims: Claims
    _admissions: Admissions
    view: View | None = field(init=False, default=None)
    statistics: FleetStatistics = field(init=False, factory=FleetStatistics)
    _loop: asyncio.AbstractEventLoop = field(init=False, factory=asyncio.get_running_loop)
    _foreign: dict[int, Receipt] = field(init=False, factory=dict)  # of the last look: a signal is parsed once
    _unreadable: list[str] = field(init=False, factory=list)

    async def look(self, heads: int) -> Look | None:
        """Look, also at the first *heads* of what waits; `None` if something there cannot be read, and is dropped."""
        sent_at, known = self._loop.time(), self._claims.known
        given = {"known": known, "spent": self._claims.spent, "heads": heads, "after": self._admissions.own.read_until}
        told = await self._session.call("look", given)
        self._claims.renew(told["renewed"] or (), known, sent_at)
        self.view = view = View.of(told["view"], self._session.anchor)
        self._note_fleet(told["fleet"], view)
        await self._admissions.own.read(told["notices"])
        rows = [*(list(rows or ()) for rows in told["heads"]), list(told["probed"] or ())]
        *lanes, probed = [await self._read(each, view) for each in rows]
        if self._unreadable:
            await self._session.call("drop", {"ids": self._unreadable})
            self._unreadable.clear()
            return None
        self._foreign = {each.sequence: each for each in (*probed, *(one for lane in lanes for one in lane))}
        return Look(
            view=view,
            heads=lanes,
            suspects=told["suspects"],
            probed=probed,
            ready_at=view.anchor.at(int(told["held_at"])) if "held_at" in told else math.inf,
            again_at=view.anchor.at(int(told["again_at"])),
            alone=self.statistics.alive <= 1,
            turn=turn_of(told, self._session.name),
        )

    def _note_fleet(self, told: Mapping[str, Any], view: View) -> None:
        adopt(self._limiter, view)
        self.statistics = FleetStatistics.of(told, self._limiter, self._loop.time())
        if self._admissions.fleet_is_full and told["unsettled"] < self._admissions.capacity:
            self._admissions.note_room()

    async def _read(self, rows: Sequence[Sequence[Any]], view: View) -> list[Receipt]:
        """Return what stands in line; other replicas' signals have receipts that nobody here awaits."""
        found = []
        for count, (number, place, admitted, expires, attempts, arrived, text) in enumerate(rows, 1):
            receipt = self._admissions.own.unsettled.get(int(number)) or self._foreign.get(int(number))
            if receipt is None and (receipt := self._parse(int(number), text)) is None:
                continue
            receipt.place, receipt.admitted_at = int(place), view.anchor.at(int(admitted))
            receipt.deadline = None if expires == "-" else view.anchor.at(int(expires))
            receipt.attempts, receipt.may_have_arrived = attempts, bool(arrived)
            found.append(receipt)
            if count % _SLICE == 0:
                await asyncio.sleep(0)
        return found

    def _parse(self, number: int, text: str) -> Receipt | None:
        try:
            signal = RiskSignal.from_json(json.loads(text))
        except (InvalidSignal, ValueError) as error:
            text = "the fleet has a signal that cannot be read, and is dropped: %s"
            logger.error(text, error, extra=log_fields("store_failed", reason="unreadable", count=1))
            self._unreadable.append(str(number))
            return None
        return Receipt(signal, number, self._loop.time(), self._loop)
