"""
An `Org` on a loopback port, with latency and faults.

    async with OktaEmulator(limit=30, period=60.0) as okta:
        ...                                  # point a client at okta.url with okta.token
        assert okta.most_in_any_window() <= 30
"""

import asyncio
import ipaddress
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, Unpack, cast

import attrs
from aiohttp import web
from multidict import CIMultiDict

from .faults import Exchange, Fault, take_fault
from .messages import EmulatedRequest, EmulatedResponse, ReceivedSignal
from .oauth import TOKEN_PATH
from .options import OrgOptions
from .org import MAX_BODY, Org

_SHUTDOWN = 0.05  # seconds to finish what is under way, then it is cancelled; aiohttp's default is 60


class OktaEmulator:
    """
    An `Org` on a loopback port, for as long as `async with` lasts.

    Leaving the block takes a fraction of a second: requests that hang or wait lose their connection.

    Args:
        host: A loopback address; any other is refused, because this server accepts a token that is published.
        port: `0` lets the operating system choose.
        latency: Seconds from the arrival of a request, which is judged at once, to its answer; a number or a function
            that is called once a request.
        script: Asked for a fault when none of `faults` applies.
        on_judged: Called with each exchange, of every endpoint, once it is judged and before its answer leaves.
        options: The keywords of `Org`, which stays reachable as `okta.org`.

    Raises:
        ValueError: *host* is no loopback address, or an option has a value that the org does not allow.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        latency: float | Callable[[], float] = 0.0,
        script: Callable[[Exchange], Fault | None] | None = None,
        on_judged: Callable[[Exchange], None] | None = None,
        **options: Unpack[OrgOptions],
    ) -> None:
        self.org: Org = Org(**options)
        self.latency = latency
        self.faults: list[Fault] = []
        """Used up from the front, one for each request to the risk endpoint that meets the fault's condition."""
        self.token_faults: list[Fault] = []
        """The same for the token endpoint."""
        self.script = script
        self.on_judged = on_judged
        self._host = _loopback(host)
        self._port = port
        self._url = ""
        self._runner: web.ServerRunner | None = None
        self._handlers: set[asyncio.Task[object]] = set()

    def __repr__(self) -> str:
        return f"<OktaEmulator {self._url or 'closed'} requests={len(self.requests)} signals={len(self.signals)}>"

    @property
    def url(self) -> str:
        """The org URL, `http://127.0.0.1:54321`; known only inside `async with`, and a RuntimeError elsewhere."""
        if not self._url:
            raise RuntimeError("the emulator has no URL outside of `async with`")
        return self._url

    @property
    def token(self) -> str:
        """The API token that is accepted."""
        return self.org.token

    @property
    def environment(self) -> dict[str, str]:
        """
        The variables with which `Client.from_env()` finds this org, uses its whole budget and does not linger.

        A RuntimeError outside of `async with`, where there is no URL.
        """
        return {
            "OKTA_CLIENT_ORGURL": self.url,
            "OKTA_CLIENT_AUTHORIZATIONMODE": "SSWS",
            "OKTA_CLIENT_TOKEN": self.token,
            "RISKBATCH_LIMIT": f"{self.org.limit}/{self.org.period:.9f}".rstrip("0").rstrip(".") + "s",
            "RISKBATCH_LINGER": "0",
        }

    @property
    def requests(self) -> list[Exchange]:
        """Every request to the risk endpoint, in arrival order."""
        return self.org.requests

    @property
    def signals(self) -> list[ReceivedSignal]:
        """Every signal ingested, in order."""
        return self.org.signals

    def most_in_any_window(self, period: float = 60.0) -> int:
        """Return the most requests that arrived in any *period* seconds, see `Org.most_in_any_window`."""
        return self.org.most_in_any_window(period)

    def spend(self, count: int) -> None:
        """Use up *count* calls of the org's quota, as other tokens on the same bucket would."""
        self.org.spend(count, self._loop.time(), time.time())

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        # handler_cancellation: a client that gives up frees its slot. No access log, no decoding of compressed bodies.
        server = web.Server(
            self._serve, handler_cancellation=True, access_log=None, auto_decompress=False, lingering_time=1.0
        )
        runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN)
        await runner.setup()
        await web.TCPSite(runner, self._host, self._port).start()
        self._runner = runner
        shown = f"[{self._host}]" if ":" in self._host else self._host
        self._url = f"http://{shown}:{runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._url = ""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._handlers:
            await asyncio.wait(self._handlers)

    async def _serve(self, http: web.BaseRequest) -> web.StreamResponse:
        """Receive one request, judge it, and answer it when the answer is due."""
        task = cast("asyncio.Task[object]", asyncio.current_task())
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)
        head = EmulatedRequest(http.method, http.raw_path, http.headers, None, "Content-Length" in http.headers)
        exchange = self.org.arrive(head, asyncio.get_running_loop().time())
        try:
            exchange.request = attrs.evolve(head, body=await _read(http))
            response = await self._decide(exchange)
        except asyncio.CancelledError:
            exchange.status = None  # the client gave up, or the emulator closes
            raise
        finally:
            self.org.depart(exchange)  # before the answer leaves: who reads it may send the next request at once
        return await _send(http, exchange, response)

    async def _decide(self, exchange: Exchange) -> EmulatedResponse | None:
        """Return the answer when it is due; `None` means that the connection is to be closed without one."""
        response = None
        fault = exchange.fault = self._next_fault(exchange)
        if fault is None or fault.ingest:
            response = self.org.respond(exchange, asyncio.get_running_loop().time(), time.time())
        if fault is not None:
            response = self.org.fail(exchange, fault, time.time()) or response
        if self.on_judged is not None:
            self.on_judged(exchange)
        latency = self.latency() if callable(self.latency) else self.latency
        await asyncio.sleep(latency + (fault.delay if fault else 0.0))
        if fault is not None and fault.ending == "hang":
            await asyncio.get_running_loop().create_future()  # until the client leaves or the server is shut down
        return None if fault is not None and fault.ending == "drop" else response

    def _next_fault(self, exchange: Exchange) -> Fault | None:
        if exchange.request.path == TOKEN_PATH:
            return take_fault(self.token_faults, exchange)
        if not exchange.number:
            return None
        return take_fault(self.faults, exchange) or (self.script(exchange) if self.script else None)


def _loopback(host: str) -> str:
    """Return *host* as a loopback address; raise ValueError for any other. `localhost` means 127.0.0.1."""
    address = "127.0.0.1" if host == "localhost" else host
    try:
        if ipaddress.ip_address(address).is_loopback:
            return address
    except ValueError:
        pass
    raise ValueError(f"the emulator listens on loopback only, not on {host!r}")


async def _read(http: web.BaseRequest) -> bytes | None:
    """Return the body; of one longer than `MAX_BODY` a little more than that, which is enough to refuse it."""
    if not http.body_exists:
        return None
    body = bytearray()
    async for chunk in http.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY:
            break
    return bytes(body)


async def _send(http: web.BaseRequest, exchange: Exchange, response: EmulatedResponse | None) -> web.StreamResponse:
    """Write *response*, or the part of it that the fault allows, or nothing at all."""
    if response is None:
        exchange.status = None
        _close(http)
        return web.StreamResponse()  # aiohttp expects one; it finds the connection closed and writes nothing
    headers = CIMultiDict(response.headers)
    is_cut = exchange.fault is not None and exchange.fault.ending == "truncate"
    if is_cut:
        headers["Content-Length"] = str(len(response.body) + 64)
    answer = web.StreamResponse(status=response.status, headers=headers)
    await answer.prepare(http)
    if response.body:
        await answer.write(response.body)
    if is_cut:
        _close(http)
    return answer


def _close(http: web.BaseRequest) -> None:
    if http.transport is not None:
        http.transport.close()
