"""
For the tests of your own code: a stand-in for Okta without sockets, and a local org for programs without a loop.

    okta = RecordingTransport()
    async with rb.Client("https://acme.okta.com", rb.ApiToken("any"), transport=okta, **QUICK) as client:
        await code_under_test(client)
    assert [signal.ip for signal in okta.signals] == ["203.0.113.7"]

`RecordingTransport` takes what the client sends and answers as it is told. It is not strict: how Okta judges, limits
and fails is the emulator's to show, as `OktaEmulator` in an async test, or `serve_okta` and the pytest fixture
`riskbatch_okta` anywhere.
"""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypedDict

from multidict import CIMultiDict

from ..limiter import RateLimit
from ..okta.http import Request, Response, Unanswered
from ..okta.risk_events import PATH
from ..signals import RiskSignal, parse_signals

if TYPE_CHECKING:
    from ..emulator import OktaEmulator


class _Quick(TypedDict):
    limit: RateLimit
    linger: float


# Keywords for a client that keeps no test waiting: no pace to speak of, no lingering, and retries within milliseconds.
QUICK: _Quick = {"limit": RateLimit(60_000, 60.0), "linger": 0.0}


class RecordingTransport:
    """
    What Okta would have got; pass it as `Client(transport=...)`.

    Attributes:
        signals: Those that were taken, in order, as they stand on the wire: with times in whole milliseconds.
        requests: The signals of each request, whatever was answered; in order.
        answers: Used up from the front, one for each request: a status such as 503 (202 takes the signals), a whole
            `Response`, or an exception to raise (`lost()` and `unreachable()` make those of a network). When there is
            none left, requests are taken.
        refuse: Asked about each signal; a request with one for which it is true is answered as Okta answers an invalid
            signal, so that its receipt ends as `Rejected` and its companions are sent.
    """

    def __init__(self, refuse: Callable[[RiskSignal], bool] | None = None) -> None:
        self.signals: list[RiskSignal] = []
        self.requests: list[list[RiskSignal]] = []
        self.answers: list[int | Response | Exception] = []
        self.refuse = refuse

    def __repr__(self) -> str:
        return f"<RecordingTransport requests={len(self.requests)} signals={len(self.signals)}>"

    async def __call__(self, request: Request) -> Response:
        """Answer one request of the client's."""
        await asyncio.sleep(0)  # as every answer of a network, it does not come within the same turn of the loop
        if not request.url.endswith(PATH):
            return _answer(200, _TOKEN)
        signals = [signal for event in json.loads(request.body) for signal in parse_signals(event)]
        self.requests.append(signals)
        answer = self.answers.pop(0) if self.answers else 202
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Response):
            return answer
        if answer != 202:
            return _error(answer)
        if self.refuse is not None and any(map(self.refuse, signals)):
            return _error(400)
        self.signals += signals
        return _answer(202)


def lost() -> Unanswered:
    """Return what a connection raises that breaks after the request was sent: Okta may have the signals."""
    return Unanswered("ServerDisconnectedError: Server disconnected", may_have_arrived=True)


def unreachable() -> Unanswered:
    """Return what a connection raises that was never made: Okta surely has nothing."""
    return Unanswered("ClientConnectorError: Cannot connect to host", may_have_arrived=False)


# Okta's error codes for the statuses that a client tells apart; developer.okta.com/docs/reference/error-codes.
_CODES = {400: "E0000001", 401: "E0000011", 403: "E0000006", 404: "E0000007", 429: "E0000047", 503: "E0000181"}
_TOKEN = {"token_type": "Bearer", "access_token": "of-a-recording", "scope": "okta.riskEvents.manage"}
_RESETS_NOW = {"Date": "Thu, 01 Jan 2026 00:00:00 GMT", "X-Rate-Limit-Reset": "1767225600"}
_BUDGET = {"X-Rate-Limit-Limit": "60000", "X-Rate-Limit-Remaining": "0", **_RESETS_NOW}


def _answer(status: int, body: object = None) -> Response:
    headers = CIMultiDict({"Content-Type": "application/json"})
    if status == 429:  # without these the client would wait for a whole window
        headers.update(_BUDGET)
    return Response(status, headers, b"" if body is None else json.dumps(body).encode())


def _error(status: int) -> Response:
    return _answer(status, {"errorCode": _CODES.get(status, "E0000009"), "errorSummary": f"scripted {status}"})


@contextmanager
def serve_okta(**options: Any) -> "Iterator[OktaEmulator]":
    """
    Run an `OktaEmulator` in a thread of its own for as long as the block lasts; *options* are its arguments.

    For code without an event loop, and for tests whose loop is not there yet, or blocked.

    Raises:
        RuntimeError: It did not start.
    """
    from ..emulator import OktaEmulator  # noqa: PLC0415 - aiohttp.web is loaded only where it is used

    started, okta = threading.Event(), OktaEmulator(**options)
    stop: list[Callable[[], object]] = []

    async def serve() -> None:
        async with okta:
            stopped = asyncio.Event()
            loop = asyncio.get_running_loop()
            stop.append(lambda: loop.call_soon_threadsafe(stopped.set))
            started.set()
            await stopped.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        finally:
            started.set()

    thread = threading.Thread(target=run, name="riskbatch emulator", daemon=True)
    thread.start()
    started.wait()
    if not stop:
        raise RuntimeError("the emulator did not start; its thread says why")
    try:
        yield okta
    finally:
        stop[0]()
        thread.join()
