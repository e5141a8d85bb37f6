"""Servers that speak no HTTP of their own, and one exchange with them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp

from riskbatch.okta.http import HEADERS, Request, Response
from riskbatch.okta.transport import aiohttp_transport, open_session

SECRET = "00secret-token"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((int(line[16:]) for line in head.splitlines() if line.lower().startswith(b"content-length: ")), 0)
    return head + await reader.readexactly(length)


@asynccontextmanager
async def raw_server(handler: Handler) -> AsyncIterator[str]:
    """A server that speaks no HTTP of its own: *handler* gets the raw connection."""
    tasks = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def says(answer: bytes, then: Callable[[asyncio.StreamWriter], Awaitable[None]] | None = None) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        await writer.drain()
        if then is not None:
            await then(writer)

    return handler


async def forever(_: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def drip(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def pour(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def reset(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def exchange(url: str, session: aiohttp.ClientSession | None = None) -> Response:
    request = Request("POST", f"{url}/api", HEADERS | {"Authorization": f"SSWS {SECRET}"}, b"[]")
    if session is not None:
        return await aiohttp_transport(session)(request)
    async with open_session() as own:
        return await aiohttp_transport(own)(request)


def ok(body: bytes = b"", *headers: bytes, length: int | None = None) -> bytes:
    lines = [b"HTTP/1.1 202 Accepted", b"Content-Length: %d" % (len(body) if length is None else length), *headers]
    return b"\r\n".join([*lines, b"", body])
