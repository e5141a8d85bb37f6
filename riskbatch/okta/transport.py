"""The thin shell around aiohttp: one request out, one answer in. It decides nothing and retries nothing."""

import asyncio
from collections.abc import Awaitable, Sequence
from functools import partial

import aiohttp

from .http import MAX_ANSWER, Middleware, Request, Response, Transport, Unanswered

TIMEOUT = 30.0  # seconds for the whole exchange, as in Okta's SDKs
CONNECT_TIMEOUT = 10.0  # seconds; shorter, since only a connection that was never made says "surely not arrived"


def open_session() -> aiohttp.ClientSession:
    """Return a session that keeps no cookies, so that Okta never takes it for a browser's."""
    return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())


def aiohttp_transport(session: aiohttp.ClientSession) -> Transport:
    """Return a transport over *session*, which stays the caller's to close."""

    async def send(request: Request) -> Response:
        if session.closed:
            raise Unanswered("the aiohttp session is closed", may_have_arrived=False)
        try:
            return await _exchange(session, request)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unanswered(_line(error), may_have_arrived=False) from None
        except TimeoutError:
            raise Unanswered(f"no answer within {TIMEOUT:g} s", may_have_arrived=True) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unanswered(_line(error), may_have_arrived=True) from None

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


async def _exchange(session: aiohttp.ClientSession, request: Request) -> Response:
    async with (
        asyncio.timeout(TIMEOUT),
        session.request(
            request.method,
            request.url,
            data=request.body,
            headers=request.headers,
            allow_redirects=False,
            raise_for_status=False,  # the session may say otherwise, and a status is an answer
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),  # the whole is timed above
        ) as response,
    ):
        body = bytearray()
        while len(body) < MAX_ANSWER:
            chunk = await response.content.read(MAX_ANSWER - len(body))
            if not chunk:
                return Response(response.status, response.headers, bytes(body))
            body += chunk
        response.close()  # the rest is not wanted, and the connection cannot be used again without it
        return Response(response.status, response.headers, bytes(body))


def _line(error: Exception) -> str:
    # Type and text of aiohttp's errors name host, port and cause; their repr may hold headers, so it is not used. It is
    # cut by whoever has taken out what a server echoed, since half a token would not be recognized.
    return f"{type(error).__name__}: {error}".splitlines()[0]
