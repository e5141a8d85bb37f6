"""The thin shell around aiohttp: one request out, one answer in. It decides nothing and retries nothing."""

import asyncio
import inspect
import zlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler

from ..errors import ConfigurationError
from .http import MAX_ANSWER, Middleware, Request, Response, Transport, Unanswered
from .proxies import Proxy, env_proxy
from .redaction import redact

TIMEOUT = 30.0  # seconds for the whole exchange, as in Okta's SDKs
CONNECT_TIMEOUT = 10.0  # seconds
BODY_TIMEOUT = 5.0  # seconds for the body once there are status and headers; the largest that we read has 64 KiB

# aiohttp's defaults of 8,190 bytes and 128 headers are less than what middleboxes add, and an answer that is refused
# for them says nothing of the signals. `max_headers` came with aiohttp 3.14; before, their number was not bounded.
_HEADER_BOUNDS: dict[str, Any] = {"max_line_size": 64 * 1024, "max_field_size": 64 * 1024, "max_headers": 512}
_HEADER_BOUNDS = {
    name: bound for name, bound in _HEADER_BOUNDS.items() if name in inspect.signature(aiohttp.ClientSession).parameters
}
_MAX_REASON = 2000  # characters of an error's text; more is cut after the secrets are out

_ERRORS = (aiohttp.ClientError, OSError, ValueError)  # of a request that fails
_DEFECTS = (TypeError, RuntimeError)  # what aiohttp says too of a request that it cannot make
_CONNECTION_ERRORS = (aiohttp.ClientConnectionError, OSError)


def open_session() -> aiohttp.ClientSession:
    """Return a session that keeps no cookies, so that Okta never takes it for a browser's."""
    connector = aiohttp.TCPConnector()
    protocol: Callable[..., ResponseHandler] = _HeadFirst
    # A private name, for which there is no public one. Without it, only what `_HeadFirst` does is missing.
    connector._factory = partial(protocol, loop=asyncio.get_running_loop())
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())


class _HeadFirst(ResponseHandler):
    """
    Gives the head of an answer to the parser before the body.

    aiohttp's parser forgets the status and headers that it has just read when the body in the same segment is faulty.
    """

    def data_received(self, data: bytes) -> None:
        head, blank_line, body = data.partition(b"\r\n\r\n")
        super().data_received(head + blank_line)
        if body:
            super().data_received(body)


class _Body(aiohttp.BytesPayload):
    """A request's body that knows whether any of it may have left this process."""

    may_have_left = False

    async def write(self, writer: AbstractStreamWriter) -> None:
        self.may_have_left = True
        await super().write(writer)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self.may_have_left = True
        await super().write_with_length(writer, content_length)


def aiohttp_transport(session: aiohttp.ClientSession, *, env_proxies: bool = False) -> Transport:
    """
    Return a transport over *session*, which stays the caller's to close.

    Args:
        session: What makes the connections.
        env_proxies: Whether to use the proxy that the environment names; a session of the user's own has its own.
    """

    async def send(request: Request) -> Response:
        if session.closed:
            raise Unanswered("the aiohttp session is closed", may_have_arrived=False, denied=True)
        try:
            proxy = env_proxy(request.url) if env_proxies else None
        except ConfigurationError as error:
            raise Unanswered(str(error), may_have_arrived=False, denied=True) from None
        body = _Body(request.body)
        until = asyncio.get_running_loop().time() + TIMEOUT
        try:
            async with asyncio.timeout_at(until):
                answer = await _ask(session, request, body, proxy)
        except (*_ERRORS, *_DEFECTS) as error:
            if isinstance(error, _DEFECTS) and body.may_have_left:
                raise
            lost = _explain(error, proxy, may_have_left=body.may_have_left)
        else:
            return Response(answer.status, answer.headers, await _read(answer, until))
        raise lost  # outside of the handler, so that its context shows nothing of the request

    return send


def with_middleware(middleware: Sequence[Middleware], transport: Transport) -> Transport:
    """Return *transport* within whatever is in *middleware* at each request; the last is the outermost."""

    async def send(request: Request) -> Response:
        out = transport
        for each in middleware:
            out = partial(_pass, each, out)
        return await out(request)

    return send


def _pass(middleware: Middleware, transport: Transport, request: Request) -> Awaitable[Response]:
    return middleware(request, transport)


async def _ask(
    session: aiohttp.ClientSession, request: Request, body: _Body, proxy: Proxy | None
) -> aiohttp.ClientResponse:
    """Return the answer as soon as its status and headers are there."""
    return await session.request(
        request.method,
        request.url,
        data=body,
        headers=request.headers,
        allow_redirects=False,
        raise_for_status=False,  # the session may say otherwise, and a status is an answer
        auto_decompress=False,  # an encoding that does not fit must not hide the status
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),  # the whole is timed by the caller
        proxy=proxy.url if proxy else None,
        proxy_headers=proxy.headers if proxy else None,
        **_HEADER_BOUNDS,
    )


async def _read(answer: aiohttp.ClientResponse, until: float) -> bytes:
    """Return what can be read of the body: whatever breaks here, status and headers are the answer."""
    body = bytearray()
    try:
        async with asyncio.timeout_at(min(until, asyncio.get_running_loop().time() + BODY_TIMEOUT)):
            while len(body) < MAX_ANSWER and (chunk := await answer.content.read(MAX_ANSWER - len(body))):
                body += chunk
    except Exception:  # noqa: S110 - aiohttp has many, and they all mean the same here
        pass
    finally:
        answer.close()  # ends the connection, unless the body was read to its end
    return _decode(bytes(body), answer.headers.get("Content-Encoding", ""))


def _decode(body: bytes, encoding: str) -> bytes:
    """Return *body* without an *encoding* that was not asked for, or as it is if that does not fit."""
    if encoding.strip().lower() in ("gzip", "x-gzip", "deflate"):
        with suppress(zlib.error):
            return zlib.decompressobj(wbits=32 + zlib.MAX_WBITS).decompress(body, MAX_ANSWER)  # 32: zlib or gzip
    return body


def _explain(error: Exception, proxy: Proxy | None, *, may_have_left: bool) -> Unanswered:
    """Return what *error* means: its text names host, port and cause, while its repr may hold headers."""
    line = f"{type(error).__name__}: {error}".partition("\n")[0][:_MAX_REASON]
    denied = False
    if isinstance(error, aiohttp.ClientHttpProxyError):
        denied = error.status in (403, 407)
        line = f"the proxy refuses to connect to the org: HTTP {error.status} {error.message[:_MAX_REASON]}"
    elif isinstance(error, aiohttp.ClientResponseError):  # its own text begins with a 400 that nobody has sent
        line = f"aiohttp's parser refused the answer before it had a status: {error.message[:_MAX_REASON]}"
    elif isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientError):
        line = f"no answer within {TIMEOUT:g} s"
    elif not may_have_left and not isinstance(error, _CONNECTION_ERRORS):
        denied = True
        line = f"the request cannot leave this process: {line}"
        if "AUTH" in str(error):  # "Cannot combine AUTHORIZATION header with AUTH argument or ..."
            line = (
                "the aiohttp session adds credentials of its own: give it no `auth`, and no `trust_env` with a "
                f"`.netrc` that names this host or has a default ({line})"
            )
    reason = redact(" ".join(line.split()), proxy.secrets if proxy else ())
    return Unanswered(reason, may_have_arrived=may_have_left, denied=denied)
