"""
`python -m benchmarks.hour`: an hour of a flood in virtual time, ours beside the official SDK and the hand-made clients.

The SDK runs itself, okta 3.0.0 with its own models, serialization and retries; only its HTTP client, which one may
choose, answers from the local org. It is called as its documentation shows: up to 20 events, oldest first, the next
call when one has returned, and the same again when a call fails. Traffic is LOW 40/s and HIGH 1/s, more than 30
requests a minute can carry; the org counts strictly, in a sliding window of 60 s.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Iterator

from benchmarks.table import Row, missing, show
from riskbatch import RateLimit, RiskLevel, RiskSignal
from riskbatch.emulator import DEFAULT_TOKEN
from riskbatch.okta.http import Request, Response
from riskbatch.okta.risk_events import MAX_EVENTS
from riskbatch.simulation import (
    LocalOrg,
    Result,
    Simulation,
    Traffic,
    fifo_by_hand,
    priority_by_hand,
    riskbatch,
    to_signal,
)

HIGH, _, LOW = RiskLevel
TRAFFIC = Traffic({LOW: 40.0, HIGH: 1.0})
ORG = "https://simulated.okta.com"


class Answer:
    """The part of an aiohttp response that the SDK looks at."""

    def __init__(self, response: Response) -> None:
        self.status = response.status
        self.headers = response.headers
        self.content_type = response.headers.get("Content-Type", "").partition(";")[0]
        self.reason = ""


async def sdk_fifo(simulation: Simulation) -> Result:
    """Deal with the traffic by the official SDK, from a FIFO queue."""
    return await _by_sdk(simulation, "okta 3.0.0, FIFO", lambda level: 0)


async def sdk_high_first(simulation: Simulation) -> Result:
    """The same with HIGH first."""
    return await _by_sdk(simulation, "okta 3.0.0, HIGH first", list(RiskLevel).index)


async def _by_sdk(simulation: Simulation, name: str, rank: Callable[[RiskLevel], int]) -> Result:
    from okta.client import Client
    from okta.http_client import HTTPClient
    from okta.models.risk_event import RiskEvent
    from okta.models.risk_event_subject import RiskEventSubject

    loop = asyncio.get_running_loop()
    outcome = Result(name, simulation.seconds, simulation.budget)
    org = LocalOrg(simulation, outcome)

    class LocalClient(HTTPClient):
        async def send_request(self, request: dict) -> tuple:
            headers = {**self._default_headers, **request["headers"]}
            headers["Authorization"] = f"SSWS {DEFAULT_TOKEN}"  # it leaves out the space, for which all answers are 401
            body = json.dumps(request["data"]).encode()
            response = await org(Request(request["method"], request["url"], headers, body))
            return None, Answer(response), response.body.decode(), None

    def event(signal: RiskSignal) -> RiskEvent:
        subject = RiskEventSubject(ip=signal.ip, riskLevel=signal.risk_level.value)
        return RiskEvent(subjects=[subject])  # its spelling of a timestamp is not the one that Okta documents

    client = Client({"orgUrl": ORG, "token": DEFAULT_TOKEN, "httpClient": LocalClient})
    waiting: list[deque[tuple[float, RiskSignal]]] = [deque() for _ in RiskLevel]
    arrived = asyncio.Event()

    async def work() -> None:
        while True:
            batch: list[tuple[float, RiskSignal]] = []
            for lane in waiting:
                while lane and len(batch) < MAX_EVENTS:
                    batch.append(lane.popleft())
            if not batch:
                arrived.clear()
                await arrived.wait()
            while batch:  # a call ends with an error after two retries; then it is made again
                *_, error = await client.send_risk_events([event(signal) for _, signal in batch])
                if error is None:
                    sent_at = loop.time() - simulation.latency
                    for at, signal in batch:
                        outcome.waits[signal.risk_level].append((sent_at, sent_at - at))
                    break

    working = asyncio.create_task(work())
    for arrival in simulation.arrivals():
        if arrival.at > loop.time():
            await asyncio.sleep(arrival.at - loop.time())
        waiting[rank(arrival.level)].append((loop.time(), to_signal(arrival)))
        arrived.set()
    working.cancel()
    await asyncio.wait({working})
    org.close()
    return outcome


def rows(seconds: float = 3600.0) -> Iterator[Row]:
    logging.disable(logging.ERROR)  # the SDK logs each refusal
    simulation = Simulation(lambda: TRAFFIC.arrivals(seconds, seed=1), seconds, RateLimit())
    ours = simulation.run(riskbatch)
    for subject in (sdk_fifo, sdk_high_first, fifo_by_hand, priority_by_hand):
        try:
            theirs = simulation.run(subject)
        except ImportError as error:
            yield missing("signals delivered in an hour of flood", "okta 3.0.0", error)
            continue
        yield from compared(ours, theirs)
    logging.disable(logging.NOTSET)


def compared(ours: Result, theirs: Result) -> Iterator[Row]:
    name = theirs.name
    mine, other = ours.delivered(), theirs.delivered()
    yield Row("signals delivered in an hour of flood", f"{mine:,}", f"{name}: {other:,}", mine / other)
    mine, other = ours.waited(HIGH, 0.99), theirs.waited(HIGH, 0.99)
    yield Row("… 99th percentile of the wait of a HIGH, s", f"{mine:.1f}", f"{name}: {other:.1f}", other / mine)
    yield Row("… requests answered 429", f"{ours.refusals}", f"{name}: {theirs.refusals} of {len(theirs.requests):,}")


if __name__ == "__main__":
    show(rows())
