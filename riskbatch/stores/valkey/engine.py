"""
The connection to a Valkey or Redis: one call of a script, what its failures mean, and how a signal is written there.

All of an engine's failures pass, but those that a person must mend: a wrong password, a missing right, a foreign key.
"""

import asyncio
import json
import os
import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ...errors import ConfigurationError, StoreError
from ...signals import RiskLevel, RiskSignal
from .clock import Anchor, EngineClock
from .scripts import KEYS, digest, script
from .statistics import FleetStatistics

if TYPE_CHECKING:
    from valkey.asyncio import Valkey, ValkeyCluster

__all__ = [
    "Engine",
    "EngineAway",
    "EngineFull",
    "FleetStatistics",
    "ValkeyStore",
    "encoded",
    "identity",
    "microseconds",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")  # no braces, since those say what decides a cluster's slot
_LAYOUT = 2  # of the keys; replicas with another one do not see each other's
_RANK = {level: str(rank) for rank, level in enumerate(RiskLevel, 1)}
# Redis before 7 wraps an error of a command in one of the script. Source: the engines' error texts, read 2026-11-26.
_FOR_GOOD = ("NOPERM", "NOAUTH", "WRONGPASS", "WRONGTYPE", "ACL failure in script")


class EngineAway(Exception):  # noqa: N818 - it passes
    """The engine did not answer, or cannot answer now. What was asked may have been done."""


class EngineFull(EngineAway):
    """The engine is at `maxmemory`: it admits nothing, and does all else. What was asked was not done."""


class ValkeyStore:
    """
    Shares one org's signals and budget between processes, on a Valkey (or Redis, 6.2 or later): `Client(store=...)`.

    All clients whose stores have the same engine and name are replicas of one fleet: the next request carries the
    highest-ranked signals of all, whichever sends it, and no window sees more than *limit* of all their requests. Give
    all of them the same settings. `enqueue` returns when the engine has the signal, which is then as durable as the
    engine: `appendonly yes` with `appendfsync always` is needed for it to survive a power cut there, and `everysec` may
    lose its last second; `maxmemory-policy` must be `noeviction`.

    Args:
        engine: A URL as `valkey://user:password@host:6379/0`, `valkeys://` for TLS, `redis://`, `rediss://` or
            `unix://`; or a client of the valkey package (`Valkey`, `ValkeyCluster`, what `Sentinel.master_for` returns)
            for all that a URL cannot say. A client that is passed in is not closed.
        name: Of the fleet, such as "acme"; the org's host if not given.
        lease: Seconds after which the fleet gives up a replica that is silent: what it had in flight is sent again by
            another. A replica that cannot reach the engine for so long gives up its requests first.
        buffer: How many `enqueue` may be on their way to the engine at once. While the engine is away they wait there;
            beyond, `when_full` decides.

    Raises:
        ConfigurationError: An argument cannot work, or the extra `fleet` is not installed.
    """

    def __init__(
        self,
        engine: "str | Valkey | ValkeyCluster",
        *,
        name: str | None = None,
        lease: float = 10.0,
        buffer: int = 10_000,
    ) -> None:
        if name is not None and not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise ConfigurationError(f"name is {name!r}; it must be 1 to 100 of a-z A-Z 0-9 . _ : -")
        if not isinstance(lease, int | float) or not 0.1 <= lease <= 3600:
            raise ConfigurationError(f"lease is {lease!r}; it must be seconds from 0.1 to 3600")
        if not isinstance(buffer, int) or isinstance(buffer, bool) or buffer < 1:
            raise ConfigurationError(f"buffer is {buffer!r}; it must be a whole number of at least 1")
        self.name = name
        self.lease: float = float(lease)
        self.buffer = buffer
        self._shown = _shown(engine)
        self._make = _maker(engine, self.lease / 3)
        self._owned = isinstance(engine, str)

    def __repr__(self) -> str:
        return f"<ValkeyStore {self._shown} {self.name or '(named by the org)'}>"

    def connect(self, org: str) -> "Engine":
        """Return the engine as the fleet of *org* sees it. Nothing is sent yet."""
        name = self.name or str(urlsplit(org).netloc)
        return Engine(self._make(), name, self._shown, timeout=self.lease / 2, owned=self._owned)


def _shown(engine: object) -> str:
    """Return where the engine is, without credentials."""
    if not isinstance(engine, str):
        return type(engine).__name__
    url = urlsplit(engine)
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"


def _maker(engine: Any, timeout: float) -> Any:
    try:
        from valkey.asyncio import Valkey, ValkeyCluster  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigurationError(
            "a ValkeyStore needs the extra: in a checkout of riskbatch, pip install '.[fleet]'"
        ) from None
    if isinstance(engine, Valkey | ValkeyCluster):
        return lambda: engine
    if not isinstance(engine, str):
        raise ConfigurationError(f"engine is a {type(engine).__name__}; it must be a URL or a client of valkey.asyncio")
    options: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    if engine.startswith(("valkeys:", "rediss:")):
        options["ssl_check_hostname"] = True  # which the package leaves off
    try:
        Valkey.from_url(engine, **options)  # connects to nothing; refuses what it cannot read
    except (ValueError, TypeError):
        message = f"engine is no URL of an engine ({_shown(engine)}); it must look like valkey://host:6379/0"
    else:
        return lambda: Valkey.from_url(engine, **options)
    raise ConfigurationError(message)  # outside of the handler: the error may hold the password


class Engine:
    """
    One fleet's part of a Valkey.

    Args:
        client: Of the valkey package.
        name: Of the fleet.
        shown: Where it is, without credentials.
        timeout: Seconds of a call.
        owned: Whether the client is closed with this.
    """

    def __init__(self, client: Any, name: str, shown: str, *, timeout: float, owned: bool) -> None:
        from valkey import exceptions  # noqa: PLC0415 - an extra

        self._client = client
        self._timeout = timeout
        self._owned = owned
        self._exceptions = exceptions
        self._failures = tuple(each for each in vars(exceptions).values() if _is_exception(each))
        self._nodes = dict(client.nodes_manager.startup_nodes) if hasattr(client, "nodes_manager") else {}
        self._asking: set[asyncio.Future[Any]] = set()
        self._keys = [f"{_prefix(name)}{key}" for key in KEYS]
        self.name = name
        self.shown = shown
        self.clock: EngineClock = EngineClock()
        self.anchor: Anchor = Anchor(0, 0.0)

    async def call(self, step: str, arguments: Mapping[str, object], signals: Sequence[str] = ()) -> dict[str, Any]:
        """
        Run the script *step*, and read the engine's clock in its answer.

        Raises:
            EngineAway: No answer came, or the engine cannot do it at the moment.
            StoreError: It never will: the password is wrong, a right is missing, the keys hold something else.
        """
        loop = asyncio.get_running_loop()
        sent = loop.time()
        try:
            text = await self._in_time(step, [json.dumps(arguments, separators=(",", ":")), *signals])
        except (*self._failures, OSError, TimeoutError) as error:
            await self._mend(error)
            raise self._judge(error) from None
        return self._read(text, sent, loop.time())

    async def _in_time(self, step: str, given: list[str]) -> Any:
        """Ask in a task of its own: the package can swallow a cancellation while it connects, and then ours hangs."""
        asking = asyncio.ensure_future(self._evaluate(step, given))
        self._asking.add(asking)
        asking.add_done_callback(self._forget)
        try:
            await asyncio.wait({asking}, timeout=self._timeout)
        finally:
            asking.cancel()
        if not asking.done() or asking.cancelled():
            raise TimeoutError(f"no answer within {self._timeout} s")
        return asking.result()

    def _forget(self, asking: "asyncio.Future[Any]") -> None:
        self._asking.discard(asking)
        if not asking.cancelled():
            asking.exception()  # which nobody awaits if the call was given up

    async def _evaluate(self, step: str, given: list[str]) -> Any:
        # Not the package's own Script: it needs the right to SCRIPT LOAD, and loads to one node of a cluster's.
        try:
            return await self._client.evalsha(digest(step), len(self._keys), *self._keys, *given)
        except self._exceptions.NoScriptError:
            return await self._client.eval(script(step), len(self._keys), *self._keys, *given)

    def _read(self, text: str | bytes, sent: float, received: float) -> dict[str, Any]:
        reply: dict[str, Any] = json.loads(text)
        self.anchor = Anchor(int(reply["now"]), received)
        self.clock.read(self.anchor.engine / 1e6, int(reply["skew"]), sent, received)
        return reply

    async def _mend(self, error: Exception) -> None:
        """Let the next call reach the engine that is there by then, which the package does not see to by itself."""
        if self._nodes:  # a cluster's client forgets the nodes that it began with when it could not reach them
            self._client.nodes_manager.startup_nodes.update(self._nodes)
        elif isinstance(error, self._exceptions.ReadOnlyError) or "READONLY" in str(error):
            # The address leads to another engine now, the open connections to the old one.
            with suppress(*self._failures, OSError):
                await self._client.connection_pool.disconnect()

    def _judge(self, error: Exception) -> Exception:
        said = str(error)
        exceptions = self._exceptions
        refusals = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
        if isinstance(error, refusals) or any(word in said for word in _FOR_GOOD):
            return StoreError(f"{self.shown} refuses: {said}")
        is_full = isinstance(error, exceptions.OutOfMemoryError) or "OOM" in said
        kind = EngineFull if is_full else EngineAway
        return kind(f"{self.shown}: {type(error).__name__}: {said}")

    async def fleets(self) -> list[str]:
        """Return the names of all fleets in the engine. It walks through all keys there, so it is for operators."""
        start, end = _prefix("\0").split("\0")
        try:
            keys = [key async for key in self._client.scan_iter(match=f"{start}*{end}state", count=1000)]
        except (*self._failures, OSError, TimeoutError) as error:
            raise StoreError(str(self._judge(error))) from None
        return sorted(_text(key)[len(start) : -len(f"{end}state")] for key in keys)

    async def close(self) -> None:
        """Give up the connection, and what is still being asked."""
        for _ in range(3):  # the first cancellation of a call may have been swallowed
            for asking in self._asking:
                asking.cancel()
            if self._asking:
                await asyncio.wait(set(self._asking), timeout=self._timeout / 3)
        if self._owned:
            await self._client.aclose()


def _prefix(name: str) -> str:
    return f"riskbatch:{_LAYOUT}:{{{name}}}:"


def _text(key: str | bytes) -> str:
    return key if isinstance(key, str) else key.decode()


def _is_exception(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, Exception)


def identity() -> str:
    """Make up a replica's name: people can tell the process by it, and it is never the same twice."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def microseconds(seconds: float) -> int:
    """Return *seconds* as the scripts have them."""
    return round(seconds * 1e6)


def encoded(signal: RiskSignal) -> str:
    """Return what the scripts want to know of a *signal*: level, microseconds until it expires, JSON."""
    expires_after: object = "-"
    if signal.expires_at is not None:  # a difference, since the clocks of two hosts do not agree
        expires_after = microseconds((signal.expires_at - datetime.now(UTC)).total_seconds())
    told = {**signal.to_json(), "timestamp": _exactly(signal.timestamp)}
    if signal.expires_at is not None:
        told["expiresAt"] = _exactly(signal.expires_at)
    return f"{_RANK[signal.risk_level]} {expires_after} {json.dumps(told, separators=(',', ':'))}"


def _exactly(time: datetime) -> str:
    return f"{time.isoformat(timespec='microseconds')[:-6]}Z"  # cut "+00:00"
