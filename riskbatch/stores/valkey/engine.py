"""
A queue and a budget that many processes share, in Valkey or Redis: the connection, and the engine's clock on ours.

Every step is one call of valkey.lua, which is where order and budget are kept; fleet.py is a replica's side of it.
"""

import asyncio
import hashlib
import json
import logging
import os
import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from attrs import field, frozen

from ...errors import ConfigurationError, StoreError
from ...signals import RiskLevel, RiskSignal

if TYPE_CHECKING:
    from valkey.asyncio import Valkey, ValkeyCluster

logger = logging.getLogger("riskbatch")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")  # no braces, since those say what decides a cluster's slot
_KEYS = [
    *("state", "signals", "tried", "high", "medium", "low", "held", "groups", "suspects", "expiring", "by-ip"),
    *("claims", "permits", "replicas", "calls", "admitted", "notices"),
]  # in the order of valkey.lua
_LAYOUT = 1  # of the keys; replicas with another one do not see each other's
_RANK = {level: str(rank) for rank, level in enumerate(RiskLevel, 1)}
_DRIFT = 0.001  # seconds a second: twice what an operating system slews a clock by
_GRAIN = 0.002  # seconds: the engine's times are whole milliseconds


class EngineAway(Exception):  # noqa: N818 - it passes
    """The engine did not answer, or cannot answer now. What was asked may have been done."""


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
        self.lease = float(lease)
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


@cache
def _script() -> str:
    return files(__package__).joinpath("valkey.lua").read_text(encoding="utf-8")


class Engine:
    """
    One fleet's part of a Valkey.

    Args:
        client: Of the valkey package.
        name: Of the fleet.
        shown: Where it is, without credentials.
        timeout: Seconds of a call, for a client that has none of its own.
        owned: Whether the client is closed with this.
    """

    def __init__(self, client: Any, name: str, shown: str, *, timeout: float, owned: bool) -> None:
        from valkey import exceptions  # noqa: PLC0415 - an extra

        self._client = client
        self._timeout = timeout
        self._owned = owned
        self._exceptions = exceptions
        self._keys = [f"riskbatch:{_LAYOUT}:{{{name}}}:{key}" for key in _KEYS]
        self.pattern = f"riskbatch:{_LAYOUT}:{{*}}:*"  # of the keys of every fleet
        self._digest = hashlib.sha1(_script().encode(), usedforsecurity=False).hexdigest()  # as EVALSHA wants it
        self.name = name
        self.shown = shown
        self.clock = EngineClock()

    async def call(self, step: str, arguments: Mapping[str, object], signals: Sequence[str] = ()) -> dict[str, Any]:
        """
        Carry out a *step* of the script.

        Raises:
            EngineAway: No answer came, or the engine cannot do it at the moment.
            StoreError: It never will: the password is wrong, a right is missing, the keys hold something else.
        """
        loop = asyncio.get_running_loop()
        given = [step, json.dumps(arguments, separators=(",", ":")), *signals]
        sent = loop.time()
        try:
            async with asyncio.timeout(self._timeout):
                text = await self._evaluate(given)
        except (self._exceptions.AuthenticationError, self._exceptions.NoPermissionError) as error:
            raise StoreError(f"{self.shown} refuses: {error}") from None
        except (self._exceptions.ConnectionError, self._exceptions.TimeoutError, OSError, TimeoutError) as error:
            raise EngineAway(f"{self.shown}: {type(error).__name__}: {error}") from None
        except self._exceptions.ResponseError as error:
            raise self._judge(error) from None
        reply: dict[str, Any] = json.loads(text)
        self.clock.read(int(reply["now"]) / 1000, int(reply["skew"]), sent, loop.time())
        return reply

    async def _evaluate(self, given: list[str]) -> Any:
        try:
            return await self._client.evalsha(self._digest, len(self._keys), *self._keys, *given)
        except self._exceptions.NoScriptError:
            return await self._client.eval(_script(), len(self._keys), *self._keys, *given)

    def _judge(self, error: Exception) -> Exception:
        said = str(error)
        if said.startswith(("NOPERM", "NOAUTH", "WRONGPASS", "WRONGTYPE")):
            return StoreError(f"{self.shown} refuses: {said}")
        # LOADING, READONLY after a failover, OOM, MISCONF, CLUSTERDOWN, BUSY and their like pass.
        return EngineAway(f"{self.shown}: {said}")

    async def close(self) -> None:
        """Give up the connection."""
        if self._owned:
            await self._client.aclose()


@frozen
class FleetStatistics:
    """
    A snapshot of a fleet, as of this replica's last look: some seconds old at most, older while the engine is away.

    Attributes:
        replicas: How many signals each replica has in flight, by its name (`host:pid:random`).
        alive: Replicas that were heard of within two leases.
        waiting: Signals in the shared queue, of all replicas.
        ready_by_level: Those of them that no retry holds back.
        in_flight: Signals in requests that have no answer yet.
        admitted: Signals that were let in since the queue was made.
        accepted: Signals that Okta took.
        requests: Requests sent since the queue was made, by all.
        limit: Requests a window allows the fleet now.
        permits: Requests that the fleet could send now as far as the window is concerned.
        held_after: Seconds until the server's word that nothing can be taken ends; 0.0 if there is none.
        away: Why the engine cannot be reached; `None` if it can.
    """

    replicas: Mapping[str, int] = field(factory=lambda: MappingProxyType({}))
    alive: int = 0
    waiting: int = 0
    ready_by_level: Mapping[RiskLevel, int] = field(factory=lambda: MappingProxyType(dict.fromkeys(RiskLevel, 0)))
    in_flight: int = 0
    admitted: int = 0
    accepted: int = 0
    requests: int = 0
    limit: int = 0
    permits: int = 0
    held_after: float = 0.0
    away: str | None = None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "FleetStatistics":
        """Read what the engine tells."""
        return cls(
            replicas=MappingProxyType(dict(told["replicas"])),
            alive=told["alive"],
            waiting=told["waiting"],
            ready_by_level=MappingProxyType(dict(zip(RiskLevel, told["ready"], strict=True))),
            in_flight=told["in_flight"],
            admitted=told["admitted"],
            accepted=told["settled"]["Accepted"],
            requests=told["requests"],
            limit=told["limit"],
            permits=told["permits"],
            held_after=told["held_after"] / 1000,
        )


class EngineClock:
    """
    Where the engine's clock is on ours, to within the time that an answer took.

    The engine's is a wall clock, which an administrator, NTP or a failover to another host may step; ours only runs
    on. So a step shows itself, and the script can be told of it (`skew`), before a permit comes back early.

    Attributes:
        step: Seconds by which the engine's clock was found to be ahead of where it should be; 0.0 if it was not.
        skew: The milliseconds that the fleet has corrected the engine's clock by.
    """

    def __init__(self) -> None:
        self._low = self._high = self._read_at = 0.0
        self._known = False
        self.skew = 0
        self.step = 0.0

    def read(self, engine: float, skew: int, sent: float, received: float) -> None:
        """Note that the *engine*'s clock, corrected by *skew*, was read between *sent* and *received* on ours."""
        low, high = engine - received - _GRAIN, engine - sent + _GRAIN
        if not self._known or skew != self.skew:
            self._low, self._high, self.step = low, high, 0.0
        else:
            drift = _DRIFT * (received - self._read_at)
            old_low, old_high = self._low - drift, self._high + drift
            self.step = low - old_high if low > old_high else high - old_low if high < old_low else 0.0
            if self.step == 0.0:
                self._low, self._high = max(low, old_low), min(high, old_high)
        self._known, self.skew, self._read_at = True, skew, received

    def span(self, now: float) -> tuple[float, float] | None:
        """Return the earliest and the latest that the engine's clock can show at *now* on ours, if that is known."""
        drift = _DRIFT * (now - self._read_at)
        return (now + self._low - drift, now + self._high + drift) if self._known else None


def identity() -> str:
    """Make up a replica's name: people can tell the process by it, and it is never the same twice."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def milliseconds(seconds: float) -> int:
    """Return *seconds* as the script has them."""
    return round(seconds * 1000)


def encoded(signal: RiskSignal) -> str:
    """Return what the script wants to know of a *signal*: level, milliseconds until it expires, JSON."""
    expires_after: object = "-"
    if signal.expires_at is not None:  # a difference, since the clocks of two hosts do not agree
        expires_after = round((signal.expires_at - datetime.now(UTC)).total_seconds() * 1000)
    told = {**signal.to_json(), "timestamp": _exactly(signal.timestamp)}
    if signal.expires_at is not None:
        told["expiresAt"] = _exactly(signal.expires_at)
    return f"{_RANK[signal.risk_level]} {expires_after} {json.dumps(told, separators=(',', ':'))}"


def _exactly(time: datetime) -> str:
    return f"{time.isoformat(timespec='microseconds')[:-6]}Z"  # cut "+00:00"
