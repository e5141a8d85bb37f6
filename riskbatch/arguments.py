"""The keywords of a client: their types for editors and type checkers, and the errors that name what cannot work."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import TypedDict, get_args

import aiohttp

from .errors import ConfigurationError
from .limiter import Limiter, RateLimit
from .okta.auth import Auth
from .okta.http import Transport
from .okta.risk_events import MAX_SUBJECTS
from .queue import WhenFull
from .receipts import Receipt
from .signals import RiskLevel
from .stores.sqlite.store import SqliteStore
from .stores.valkey.engine import ValkeyStore


class ClientOptions(TypedDict, total=False):
    """What `Client.from_env` takes: the arguments of `Client`, each of them optional."""

    org_url: str
    auth: Auth
    limit: RateLimit | Limiter
    reserve: int
    store: SqliteStore | ValkeyStore | None
    capacity: int
    when_full: WhenFull
    linger: float | Mapping[RiskLevel, float] | None
    subjects_per_event: int
    coalesce: bool
    on_settled: Callable[[Receipt], object] | None
    session: aiohttp.ClientSession | None
    transport: Transport | None
    close_timeout: float


def check_options(options: ClientOptions) -> None:
    """
    Refuse *options* that cannot work.

    Raises:
        ConfigurationError: The message names the argument, its value and what would work.
    """
    _check_number("capacity", options["capacity"], 1, math.inf)
    _check_number("subjects_per_event", options["subjects_per_event"], 1, MAX_SUBJECTS)
    check_seconds("close_timeout", options["close_timeout"])
    if options["when_full"] not in get_args(WhenFull):
        raise ConfigurationError(f"when_full is {options['when_full']!r}; it must be one of {get_args(WhenFull)}")
    on_settled = options["on_settled"]
    if inspect.iscoroutinefunction(on_settled):
        raise ConfigurationError("on_settled is a coroutine function; it must be a plain one that returns at once")
    if on_settled is not None and not callable(on_settled):
        raise ConfigurationError(f"on_settled is a {_kind(on_settled)}; it must be a function of a receipt")
    if not isinstance(limit := options["limit"], RateLimit | Limiter):
        raise ConfigurationError(f"limit is {limit!r}; it must be a RateLimit, such as RateLimit(15, 60.0)")
    if not isinstance(session := options["session"], aiohttp.ClientSession | None):
        raise ConfigurationError(f"session is a {_kind(session)}; it must be an aiohttp.ClientSession")
    if not isinstance(auth := options["auth"], Auth):
        raise ConfigurationError(f"auth is a {_kind(auth)}; it must be an ApiToken or a ServiceApp")
    if not isinstance(store := options["store"], SqliteStore | ValkeyStore | None):
        raise ConfigurationError(f"store is a {_kind(store)}; it must be a SqliteStore or a ValkeyStore")


def check_seconds(name: str, value: object) -> None:
    """Refuse a *value* that is no finite number of seconds from 0 on; the error names the argument *name*."""
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ConfigurationError(f"{name} is {value!r}; it must be a finite number of seconds, 0 or more")


def _check_number(name: str, value: object, least: int, most: float) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        span = f"from {least} to {most}" if most < math.inf else f"of at least {least}"
        raise ConfigurationError(f"{name} is {value!r}; it must be a whole number {span}")


def _kind(value: object) -> str:
    return type(value).__name__
