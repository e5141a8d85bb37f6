"""The strict emulator's `Org` as a transport on the test's own clock: no sockets, and every payload is judged."""

import asyncio
import json
from collections.abc import Callable

from multidict import CIMultiDict

import riskbatch as rb
from riskbatch.emulator import DEFAULT_TOKEN, EmulatedRequest, Exchange, Fault, Org
from riskbatch.okta.transport import Unanswered
from riskbatch.okta.wire import PATH, Request, Response

URL = "https://acme.okta.com"
WALL = 1_700_000_000.0  # epoch seconds at loop time 0
GIVES_UP = 30.0  # as the real transport does


class FakeOrg:
    """
    Pass it as `Client(transport=...)`.

    `delay` returns seconds on the way there and back. `faults` is used up from the front, one for each request:
    a Fault, an exception to raise instead of sending, or None. `script` is asked when there is none.
    """

    def __init__(
        self,
        *,
        delay: Callable[[], tuple[float, float]] = lambda: (0.05, 0.05),
        script: Callable[[Exchange], Fault | BaseException | None] | None = None,
        **options,
    ) -> None:
        self.org = Org(**options)
        self.delay = delay
        self.script = script
        self.faults: list[Fault | BaseException | None] = []
        self.departures: list[tuple[float, list[str]]] = []
        self.on_departure: Callable[[list[str]], None] | None = None
        self.cancelled = 0

    async def __call__(self, request: Request) -> Response:
        loop = asyncio.get_running_loop()
        ips = [subject["ip"] for event in json.loads(request.body) for subject in event["subjects"]]
        self.departures.append((loop.time(), ips))
        if self.on_departure is not None:
            self.on_departure(ips)
        there, back = self.delay()
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, BaseException):
            raise fault
        try:
            await asyncio.sleep(there)
            path = request.url.removeprefix(URL)
            head = EmulatedRequest(request.method, path, CIMultiDict(request.headers), request.body)
            exchange = self.org.arrive(head, loop.time())
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        try:
            return await self._answer(exchange, fault or (self.script(exchange) if self.script else None), back)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.org.depart(exchange)

    async def _answer(self, exchange: Exchange, fault: Fault | BaseException | None, back: float) -> Response:
        loop = asyncio.get_running_loop()
        if isinstance(fault, BaseException):
            raise fault
        response = None
        if fault is None or fault.ingest:
            response = self.org.respond(exchange, loop.time(), WALL + loop.time())
        if fault is not None:
            response = self.org.fail(exchange, fault, WALL + loop.time()) or response
        await asyncio.sleep(back + (fault.delay if fault else 0.0))
        if fault is not None and fault.ending == "hang":
            await asyncio.sleep(GIVES_UP)
            raise Unanswered("no answer within 30 s", may_have_arrived=True)
        if fault is not None and fault.ending != "answer":
            raise Unanswered("ServerDisconnectedError: Server disconnected", may_have_arrived=True)
        assert response is not None
        return Response(response.status, CIMultiDict(response.headers), response.body)

    @property
    def ips(self) -> list[str]:
        """What Okta has, in the order in which it came."""
        return [signal.ip for signal in self.org.signals]

    @property
    def statuses(self) -> list[int | None]:
        return [exchange.status for exchange in self.org.requests]

    def carried(self, *ips: str) -> list[int]:
        """The numbers of the departures (from 0) that carried any of *ips*."""
        return [i for i, (_, aboard) in enumerate(self.departures) if set(ips) & set(aboard)]


def client(org: FakeOrg, **options) -> rb.Client:
    """A client of *org* that has room for floods and does not linger, unless asked to, so that tests read straight on."""
    return rb.Client(
        URL, rb.ApiToken(DEFAULT_TOKEN), **{"transport": org, "linger": 0.0, "capacity": 100_000} | options
    )


def ip(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def signals(count: int, level: str = "LOW", start: int = 0, **fields) -> list[rb.RiskSignal]:
    return [rb.RiskSignal(ip(start + i), level, **fields) for i in range(count)]


def signal(number: int = 0, level: str = "LOW", **fields) -> rb.RiskSignal:
    return rb.RiskSignal(ip(number), level, **fields)


def balanced(client: rb.Client) -> bool:
    s = client.statistics()
    return (
        s.admitted == s.settled + s.waiting + s.in_flight
        and s.waiting == sum(s.waiting_by_level.values())
        and min(s.waiting, s.in_flight, s.requests_in_flight, s.permits) >= 0
    )


async def outcomes(receipts: list[rb.Receipt]) -> list[rb.Outcome]:
    return [await receipt for receipt in receipts]


def every_tick(callback: Callable[[], None]) -> Callable[[], None]:
    """Call *callback* in every turn of the running loop; returns what stops it."""
    loop = asyncio.get_running_loop()
    run_once = loop._run_once  # there is no public hook that leaves the clock alone

    def observed() -> None:
        run_once()
        callback()

    loop._run_once = observed

    def stop() -> None:
        loop._run_once = run_once

    return stop


__all__ = ["PATH", "URL", "WALL", "FakeOrg", "balanced", "client", "every_tick", "ip", "outcomes", "signal", "signals"]
