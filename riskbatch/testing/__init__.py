"""
For the tests of your own code: a stand-in for Okta without sockets, and a local org for programs without a loop.

    okta = RecordingTransport()
    async with rb.Client("https://acme.okta.com", rb.ApiToken("any"), transport=okta, **QUICK) as client:
        await code_under_test(client)
    assert [signal.ip for signal in okta.signals] == ["203.0.113.7"]

`RecordingTransport` records what the client sends, and answers as the test tells it. It is not strict: how Okta
judges, limits and fails is what the emulator shows. Use `OktaEmulator` in an async test, and `serve_okta` or the pytest
fixture `riskbatch_okta` in any test. Nothing here needs pytest; only `riskbatch.testing.plugin` does.
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


__all__ = [
    "QUICK",
    "RecordingTransport",
    "Request",
    "Response",
    "Unanswered",
    "lost",
    "serve_okta",
    "unreachable",
]


class _Quick(TypedDict):
    limit: RateLimit
    linger: float


# Keywords of `Client` for tests: requests leave within milliseconds of each other, retries too, and nothing lingers.
QUICK: _Quick = {"limit": RateLimit(60_000, 60.0), "linger": 0.0}


class RecordingTransport:
    """
    What Okta would have received; pass it as `Client(transport=...)`.

    Attributes:
        signals: Those that were accepted, in order, as they are on the wire: with times in whole milliseconds.
        requests: The signals of each request, accepted or not; in order.
        answers: Used up from the front, one for each request: a status such as 503 (202 accepts the signals), a whole
            `Response`, or an exception to raise (`lost()` and `unreachable()` make those of a network). When there is
            none left, requests are accepted.
        refuse: Asked about each signal; a request with one for which it is true is answered as Okta answers an invalid
            signal. So that signal's receipt ends as `Rejected`, and the other signals of the request are sent again.
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
        await asyncio.sleep(0)  # as from a network: the answer never comes within the same turn of the loop
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
    """Return the error of a connection that breaks after the request was sent: Okta may have the signals."""
    return Unanswered("ServerDisconnectedError: Server disconnected", may_have_arrived=True)


def unreachable() -> Unanswered:
    """Return the error of a connection that was never made: Okta certainly has nothing."""
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

    For code without an event loop, and for tests whose loop is not there yet, or blocked. The org takes 60,000 requests
    a minute, so that no test waits; `limit=30` makes it as slow as Okta. Its `environment` is what a program needs that
    calls `Client.from_env()`.

    Raises:
        RuntimeError: It did not start.
        ValueError: An option has a value that the emulator does not allow.
    """
    from ..emulator import OktaEmulator  # noqa: PLC0415 - aiohttp.web is loaded only where it is used

    started, okta = threading.Event(), OktaEmulator(**{"limit": QUICK["limit"].requests} | options)
    stop: list[Callable[[], object]] = []
    failures: list[OSError] = []

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
        except OSError as error:  # such as a port that is taken
            failures.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run, name="riskbatch emulator", daemon=True)
    thread.start()
    started.wait()
    if not stop:
        raise RuntimeError("the emulator did not start") from next(iter(failures), None)
    try:
        yield okta
    finally:
        stop[0]()
        thread.join()
