"""
A strict local Okta org: the Risk Events API, its limits and its failures, for tests and demonstrations.

    async with OktaEmulator(limit=30, period=60.0) as okta:
        ...                                  # point a client at okta.url with okta.token
        assert okta.most_in_any_window() <= 30

Two layers. `Org` decides: no sockets, no tasks, no clock, so a simulation on a virtual clock can ask it directly.
`OktaEmulator` serves an `Org` on a loopback port and applies latency and faults.

It shares no code with the client, so that one mistake cannot pass on both sides, and where Okta's documents leave a
choice open it takes the harsher one. What no document settles is marked *unverified*. Okta does not publish its order
of checks; here it is: path, method, length, credentials, feature, concurrency, rate, provider, media types, JSON,
schema. Every call with good credentials counts against the rate, whatever becomes of it afterwards.

The OAuth half is in emulator_oauth.py; `okta.org.register_app(...)` makes a service app.

Sources, all read 2026-08-21: okta-management-openapi-spec 2025.08.0 (the last with this endpoint); developer.okta.com
/docs/reference/core-okta-api, /rate-limits, /rl2-monitor, /rl2-concurrency, /rl2-token-oauth and /error-codes.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import formatdate
from types import TracebackType
from typing import Any, Literal, NotRequired, Self, TypedDict, Unpack, cast

import attrs
from aiohttp import web
from attrs import validators
from multidict import CIMultiDict, MultiMapping

from .oauth import ALGORITHMS, RISK_EVENTS_SCOPE, TOKEN_PATH, AccessToken, App, Denied, OAuth

RISK_EVENTS_PATH = "/api/v1/risk/events/ip"
PROVIDERS_PATH = "/api/v1/risk/providers"
READ_PROVIDERS = ("okta.riskProviders.read", "okta.riskProviders.manage")
MANAGE_PROVIDERS = READ_PROVIDERS[1:]
DEFAULT_TOKEN = "00-this-is-not-a-secret-okta-emulator-token"  # noqa: S105 - opens nothing but the emulator

MAX_EVENTS = 20  # prose of the operation in the spec; its schema has no maxItems
MAX_SUBJECTS = 50  # old reference page only (removed 2023-02-24), never in a spec
MAX_PROVIDERS = 3  # spec, createRiskProvider
MAX_PROVIDER_NAME = 50  # spec, RiskProvider.name; the old page says fewer than 50
PROVIDER_ACTIONS = ("none", "log_only", "enforce_and_log")
MAX_MESSAGE = 512  # spec, RiskEventSubject.message
MAX_BODY = 4 * 1024 * 1024  # bytes. 20 x 50 subjects with every character escaped come to 3.5 MB; Okta's cap is unknown

_MESSAGE = re.compile(r"[a-zA-Z0-9 .\-_]*")  # spec; fullmatch, because `$` lets a trailing newline pass
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)  # spec: yyyy-MM-dd'T'HH:mm:ss.SSS'Z'
_NO_QUALITY = re.compile(r"q=0(\.0{0,3})?")
_RISK_LEVELS = ("HIGH", "MEDIUM", "LOW")

_CROWDED_RESET = 114.0  # seconds; a live org was seen to suggest this while a slot was free (okta-sdk-python #270)
_WIDE_LIMIT = 600  # the enclosing /api/v1 bucket of an Enterprise org (old rate-limit table)
_SHUTDOWN = 0.05  # seconds to finish what is under way, then it is cancelled; aiohttp's default is 60

_Pairs = tuple[tuple[str, str], ...]

# Source: developer.okta.com/docs/reference/error-codes, the texts word for word.
_SUMMARIES = {
    "E0000001": "Api validation failed: riskEvents",
    "E0000003": "The request body was not well-formed.",
    "E0000005": "Invalid session",
    "E0000006": "You do not have permission to perform the requested action",
    "E0000007": "Not found: Resource not found",
    "E0000008": "The requested path was not found",
    "E0000009": "Internal Server Error",
    "E0000010": "Service is in read only mode",
    "E0000011": "Invalid token provided",
    "E0000015": "You do not have permission to access the feature you are requesting",
    "E0000019": "Bad request.  Accept and/or Content-Type headers likely do not match supported values.",
    "E0000021": "Bad request.  Accept and/or Content-Type headers likely do not match supported values.",
    "E0000022": "The endpoint does not support the provided HTTP method",
    "E0000026": "This endpoint has been deprecated.",
    "E0000047": "API call exceeded rate limit due to too many requests.",
    "E0000181": "Service temporarily unavailable.",
    "E0000215": "This endpoint has been deprecated.",
}
_GONE = {"E0000008": 404, "E0000026": 404, "E0000215": 410}


# ------------------------------------------------------------------------------------------------ what goes in and out


def _size(value: Sized) -> str:
    return f"<{len(value)}>"


@attrs.frozen
class EmulatedRequest:
    """One HTTP request. Its repr shows neither headers nor body, since they hold the token and the signals."""

    method: str
    path: str
    """As sent, with its query."""
    headers: MultiMapping[str] = attrs.field(repr=False)
    body: bytes | None = attrs.field(default=None, repr=False)
    has_length: bool = True
    """Whether a Content-Length was sent; without one a request must at least have a body."""


@attrs.frozen
class EmulatedResponse:
    """One HTTP answer. *headers* may name a header twice."""

    status: int
    headers: _Pairs
    body: bytes = attrs.field(default=b"", repr=False)


@attrs.frozen(kw_only=True)
class ReceivedSignal:
    """One IP verdict as Okta got it: one subject of one event, the texts exactly as sent."""

    ip: str
    risk_level: str
    message: str | None
    timestamp: str | None
    expires_at: str | None
    request: int
    """Number of the request that carried it, see `Exchange.number`."""
    arrived_at: float
    """Seconds on the clock of the caller (for `OktaEmulator`, the event loop's)."""


@attrs.define(eq=False)
class Exchange:
    """One request to the risk endpoint and what became of it."""

    number: int
    """1 for the first to arrive."""
    arrived_at: float
    """Seconds on the caller's clock at which its head arrived."""
    request: EmulatedRequest
    fault: Fault | None = None
    status: int | None = None
    """Status of the answer; `None` when none was given."""
    error_code: str | None = None
    request_id: str | None = None
    """The `X-Okta-Request-Id` of the answer."""
    signals: tuple[ReceivedSignal, ...] = attrs.field(default=(), repr=_size)
    """Ingested from this request; filled even when the answer was lost."""
    holds_slot: bool = attrs.field(default=False, repr=False)


@attrs.frozen(kw_only=True)
class Fault:
    """
    One thing that goes wrong with one request; use the constructors, and `attrs.evolve` to mix them.

    Without *ingest* the org never sees the request: no signal is recorded and no quota is used. With it, the org judges
    the request as always (signals are recorded if they are valid), and only the answer is spoilt.
    """

    ending: Literal["answer", "drop", "truncate", "hang"] = "answer"
    ingest: bool = False
    status: int | None = None
    """Status to answer with; `None` keeps the org's own answer."""
    code: str | None = None
    """Okta error code: makes the body Okta's five keys instead of *body*."""
    headers: _Pairs = ()
    body: bytes = attrs.field(default=b"", repr=_size)
    rate: tuple[int, int, float] | None = None
    """Limit, Remaining, and in how many seconds Reset is."""
    from_okta: bool = True
    """False for an answer of something in between, which has no `X-Okta-Request-Id`."""
    delay: float = 0.0
    """Seconds before the answer, the drop or the cut; a slot is held meanwhile."""
    when: Callable[[Exchange], bool] | None = None

    def only_if(self, predicate: Callable[[Exchange], bool]) -> Fault:
        """Limit this fault to exchanges for which *predicate* holds; it waits in line until one comes."""
        return attrs.evolve(self, when=predicate)

    @classmethod
    def answer(cls, status: int, headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> Fault:
        """Any answer at all. Not ingested. A header given here replaces the emulator's own of that name."""
        return cls(status=status, headers=tuple(headers), body=body)

    @classmethod
    def error(cls, status: int = 500, code: str = "E0000009") -> Fault:
        """An error in Okta's shape, without rate headers. Not ingested."""
        return cls(status=status, code=code)

    @classmethod
    def unavailable(cls, code: str = "E0000181") -> Fault:
        """503 without rate headers; `E0000010` is the read-only mode. Not ingested."""
        return cls.error(503, code)

    @classmethod
    def proxy_error(cls, status: int = 502) -> Fault:
        """An HTML page from a proxy before Okta (502, 504), without Okta's headers. Not ingested."""
        page = f"<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>\r\n".encode()
        return cls(status=status, headers=(("Content-Type", "text/html"),), body=page, from_okta=False)

    @classmethod
    def rate_limited(cls, *, limit: int = 30, remaining: int = 0, reset_in: float = 60.0) -> Fault:
        """429 with these rate headers, Reset *reset_in* seconds ahead. Not ingested."""
        return cls(status=429, code="E0000047", rate=(limit, remaining, reset_in))

    @classmethod
    def crowded(cls, *, reset_in: float = _CROWDED_RESET) -> Fault:
        """The concurrency 429: Limit 0, Remaining 0, a Reset that means nothing. Not ingested."""
        return cls(status=429, code="E0000047", rate=(0, 0, reset_in))

    @classmethod
    def redirect(cls, location: str, status: int = 302) -> Fault:
        """A redirect, which a client must not follow with its token. Not ingested."""
        return cls(status=status, headers=(("Location", location),))

    @classmethod
    def drop(cls) -> Fault:
        """The connection is closed without an answer. Not ingested."""
        return cls(ending="drop")

    @classmethod
    def lost_answer(cls) -> Fault:
        """The connection is closed without an answer, but the signals ARE ingested."""
        return cls(ending="drop", ingest=True)

    @classmethod
    def truncated(cls) -> Fault:
        """The connection is closed in the middle of the org's own answer. Ingested."""
        return cls(ending="truncate", ingest=True)

    @classmethod
    def hang(cls, *, ingest: bool = False) -> Fault:
        """No answer until the client gives up or the emulator closes. Ingested only if *ingest*."""
        return cls(ending="hang", ingest=ingest)

    @classmethod
    def slow(cls, seconds: float) -> Fault:
        """The org's own answer, *seconds* late, with the `Date` of the arrival. Ingested, at arrival."""
        return cls(ingest=True, delay=seconds)

    @classmethod
    def oversized(cls, size: int = 8 * 1024 * 1024, status: int = 202) -> Fault:
        """An answer with a body of *size* bytes. Ingested if *status* is a success."""
        return cls(status=status, ingest=200 <= status < 300, body=b"x" * size)


# ------------------------------------------------------------------------------------------------ Okta's schema


class _Refused(Exception):  # noqa: N818 - the request is refused; nothing here is in error
    """Ends the judging of a request: an error in Okta's shape, or an empty body if there is no code."""

    def __init__(self, status: int, code: str = "", *, causes: Iterable[str] = (), headers: _Pairs = ()) -> None:
        super().__init__(status, code)
        self.status = status
        self.code = code
        self.causes = tuple(causes)
        self.headers = headers


class _Subject(TypedDict):
    ip: str
    riskLevel: str
    message: NotRequired[str]


class _Event(TypedDict):
    subjects: list[_Subject]
    timestamp: NotRequired[str]
    expiresAt: NotRequired[str]


_Check = Callable[[object], str]
"""Says what is wrong with a value; empty when nothing is."""


def _check_array(value: object) -> str:
    return "" if isinstance(value, list) else "must be an array"


def _check_ip(value: object) -> str:
    if not isinstance(value, str):
        return "must be a string"
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return "must be an IPv4 or IPv6 address"
    return "must not have a zone id" if "%" in value else ""


def _check_level(value: object) -> str:
    return "" if value in _RISK_LEVELS else "must be one of HIGH, MEDIUM, LOW"


def _check_message(value: object) -> str:
    if not isinstance(value, str):
        return "must be a string"
    if len(value) > MAX_MESSAGE:
        return f"has {len(value)} characters (limit {MAX_MESSAGE})"
    return "" if _MESSAGE.fullmatch(value) else f"must match {_MESSAGE.pattern}"


def _check_instant(value: object) -> str:
    if not isinstance(value, str) or not _INSTANT.fullmatch(value):
        return "must be a UTC instant like 2021-01-20T00:00:00.001Z"
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return "is not a date"
    return ""


_EVENT_FIELDS: dict[str, tuple[bool, _Check]] = {
    "subjects": (True, _check_array),
    "timestamp": (False, _check_instant),
    "expiresAt": (False, _check_instant),
}
_SUBJECT_FIELDS: dict[str, tuple[bool, _Check]] = {
    "ip": (True, _check_ip),
    "riskLevel": (True, _check_level),
    "message": (False, _check_message),
}


def _parse(body: bytes) -> list[object]:
    """Return the array in *body*. That a single object is E0000003 and not E0000001 is *unverified*."""
    try:
        events: object = json.loads(body.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise _Refused(400, "E0000003") from None
    if not isinstance(events, list):
        raise _Refused(400, "E0000003")
    return events


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _field_problems(
    value: object, where: str, fields: Mapping[str, tuple[bool, _Check]], allow_unknown: bool
) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: must be an object"
        return
    for name, (required, check) in fields.items():
        if name not in value:
            if required:
                yield f"{where}.{name}: is required"
        elif problem := check(value[name]):
            yield f"{where}.{name}: {problem}"
    if not allow_unknown:
        yield from (f"{where}.{name}: is not a known property" for name in value if name not in fields)


def _problems(events: list[object], max_subjects: int | None, allow_unknown: bool) -> Iterator[str]:
    """Yield what Okta's schema holds against *events*, each with its place, `[3].subjects[0].ip: ...`."""
    if not 1 <= len(events) <= MAX_EVENTS:
        yield f"[]: has {len(events)} events (1 to {MAX_EVENTS} allowed)"
        return
    for i, event in enumerate(events):
        yield from _field_problems(event, f"[{i}]", _EVENT_FIELDS, allow_unknown)
        subjects = event.get("subjects") if isinstance(event, dict) else None
        if not isinstance(subjects, list):
            continue
        if not subjects or (max_subjects is not None and len(subjects) > max_subjects):
            yield f"[{i}].subjects: has {len(subjects)} subjects (1 to {max_subjects or 'any number'} allowed)"
        for j, subject in enumerate(subjects):
            yield from _field_problems(subject, f"[{i}].subjects[{j}]", _SUBJECT_FIELDS, allow_unknown)


def _signals(events: list[_Event], exchange: Exchange) -> Iterator[tuple[str, ReceivedSignal]]:
    """Yield every subject as a signal, each with its place."""
    for i, event in enumerate(events):
        for j, subject in enumerate(event["subjects"]):
            yield (
                f"[{i}].subjects[{j}]",
                ReceivedSignal(
                    ip=subject["ip"],
                    risk_level=subject["riskLevel"],
                    message=subject.get("message"),
                    timestamp=event.get("timestamp"),
                    expires_at=event.get("expiresAt"),
                    request=exchange.number,
                    arrived_at=exchange.arrived_at,
                ),
            )


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"


def _accepts_json(accept: str) -> bool:
    """Say whether an Accept header lets JSON through; the most specific range decides (RFC 9110 section 12.5.1)."""
    ranks = {"application/json": 2, "application/*": 1, "*/*": 0}
    best, wanted = -1, False
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        if ranks.get(name, -1) > best:
            best, wanted = ranks[name], not any(_NO_QUALITY.fullmatch(parameter) for parameter in parameters)
    return wanted


def _challenge(scheme: str, request: EmulatedRequest, scope: str, denied: Denied) -> tuple[str, str]:
    """Return the WWW-Authenticate header of a refused access token: Okta's shape, with its http:// inside."""
    org = f"http://{request.headers.get('Host', 'emulator')}"
    algs = f' algs="{ALGORITHMS}",' if scheme == "DPoP" else ""
    return "WWW-Authenticate", (
        f'{scheme}{algs} authorization_uri="{org}/oauth2/v1/authorize", realm="{org}", scope="{scope}", '
        f'error="{denied.error}", error_description="{denied.description}", resource="{request.path.partition("?")[0]}"'
    )


def _provider_problems(value: object) -> Iterator[str]:
    """Yield what the schema of RiskProvider holds against *value*; read-only members are ignored."""
    if not isinstance(value, dict):
        yield "must be an object"
        return
    name, client_id = value.get("name"), value.get("clientId")
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_PROVIDER_NAME:
        yield f"name: must have 1 to {MAX_PROVIDER_NAME} characters"
    if not isinstance(client_id, str) or not client_id:
        yield "clientId: is required"
    if value.get("action", "log_only") not in PROVIDER_ACTIONS:
        yield f"action: must be one of {', '.join(PROVIDER_ACTIONS)}"


def _default_provider() -> dict[str, dict[str, Any]]:
    """Return the provider that Okta makes for every org; the space and the "null" are Okta's."""
    made = "2021-01-05 22:18:30"
    return {
        "00rp12r4skkjkjgsn": {
            "id": "00rp12r4skkjkjgsn", "name": "Default ", "clientId": "null", "action": "log_only",
            "created": made, "lastUpdated": made,
        }
    }  # fmt: skip


def _json(status: int, body: object, headers: _Pairs = ()) -> EmulatedResponse:
    return EmulatedResponse(status, (("Content-Type", "application/json"), *headers), json.dumps(body).encode())


# ------------------------------------------------------------------------------------------------ the org


class OrgOptions(TypedDict, total=False):
    """The keywords of `Org`, where each is explained."""

    limit: int
    period: float
    window: Literal["fixed", "sliding"]
    phase: float | None
    principal_share: float
    header_limit: Literal["principal", "org"]
    concurrency: int
    clock_skew: float
    duplicate_headers: bool
    max_subjects: int | None
    allow_unknown: bool
    name_causes: bool
    poison: Callable[[ReceivedSignal], bool] | None
    token: str
    token_valid: bool
    strict_token: bool
    access_tokens: dict[str, AccessToken]
    feature_enabled: bool
    removed: Literal["E0000008", "E0000026", "E0000215"] | None
    provider_registered: bool | None
    base_url: str


@attrs.define(kw_only=True, eq=False)
class Org:
    """
    The org's decisions: no sockets, no tasks, no clock. Every attribute may be changed between two requests.

    `now` is always seconds on one monotonic clock, `wall` epoch seconds; both are the caller's. A caller who wants
    concurrency to count passes the three moments of a request, `arrive`, `respond` and `depart`; one who does not
    calls `answer`. Requests and signals are kept for ever: clear the two lists where that is too long.
    """

    limit: int = attrs.field(default=30, validator=validators.ge(1))
    """Calls per *period* for the whole org."""
    period: float = attrs.field(default=60.0, validator=validators.gt(0))
    """Seconds of one rate window."""
    window: Literal["fixed", "sliding"] = attrs.field(default="fixed", validator=validators.in_(("fixed", "sliding")))
    """`fixed` as Okta documents it; `sliding` admits no more than *limit* in any *period*, which is stricter."""
    phase: float | None = None
    """An instant of the `now` clock at which a fixed window opens, and again every *period*; `None`: at first use."""
    principal_share: float = attrs.field(default=1.0, validator=[validators.gt(0), validators.le(1)])
    """What one token may use of *limit*; Okta's default for new tokens and apps is 0.5."""
    header_limit: Literal["principal", "org"] = attrs.field(
        default="principal", validator=validators.in_(("principal", "org"))
    )
    """Whose ceiling the rate headers show; *unverified*."""
    concurrency: int = attrs.field(default=75, validator=validators.ge(1))
    """Requests in flight at once: 75 in a Workforce org, 35 in a free one."""
    clock_skew: float = 0.0
    """Seconds the org's clock is ahead of `wall`; moves Date and Reset alike."""
    duplicate_headers: bool = False
    """Send a second set of rate headers, that of the wider /api/v1 bucket, before the one that counts."""
    max_subjects: int | None = MAX_SUBJECTS
    """Subjects allowed in one event; `None` for no limit."""
    allow_unknown: bool = False
    """Let unknown properties pass; what Okta does is *unverified*."""
    name_causes: bool = True
    """Name the bad field in errorCauses; without it a client has to find the bad signal itself."""
    poison: Callable[[ReceivedSignal], bool] | None = None
    """Signals for which this is true are refused like invalid ones, though they look valid."""
    token: str = attrs.field(default=DEFAULT_TOKEN, repr=False)
    """The one API token."""
    token_valid: bool = True
    """False: the API token is expired or revoked, 401 E0000011."""
    strict_token: bool = True
    """Want exactly one space after SSWS; otherwise any number of them, none included."""
    access_tokens: dict[str, AccessToken] = attrs.field(factory=dict, repr=False)
    """The OAuth access tokens that are known; take one out to revoke it."""
    feature_enabled: bool = True
    """False: 401 E0000015."""
    removed: Literal["E0000008", "E0000026", "E0000215"] | None = attrs.field(
        default=None, validator=validators.in_((None, *_GONE))
    )
    """The endpoint is gone and answers with this code (404, 404, 410); which one Okta will use is *unverified*."""
    provider_registered: bool | None = True
    """False: the caller is not tied to a risk provider, 403 E0000006. `None`: `providers` decide."""
    base_url: str = ""
    """The org's URL, which assertions and proofs must name; if empty, http:// and the Host header."""

    requests: list[Exchange] = attrs.field(init=False, factory=list, repr=_size)
    """Every request to the risk endpoint, in arrival order."""
    signals: list[ReceivedSignal] = attrs.field(init=False, factory=list, repr=_size)
    """Every signal ingested, in order."""
    oauth: OAuth = attrs.field(init=False)
    """Service apps, tokens, nonces, and the settings of all that."""
    providers: dict[str, dict[str, Any]] = attrs.field(init=False, factory=_default_provider, repr=False)
    """The risk providers as the API shows them, by id."""
    in_flight: int = attrs.field(init=False, default=0)
    """Concurrency slots taken."""
    _arrived: int = attrs.field(init=False, default=0, repr=False)
    _calls: deque[tuple[float, str]] = attrs.field(init=False, factory=deque, repr=False)
    _window_ends: float = attrs.field(init=False, default=-math.inf, repr=False)
    _window_reset: float = attrs.field(init=False, default=0.0, repr=False)

    def __attrs_post_init__(self) -> None:
        self.oauth = OAuth(access_tokens=self.access_tokens)

    def register_app(
        self,
        client_id: str,
        keys: Mapping[str, Any] | Iterable[Mapping[str, Any]],
        *,
        scopes: Iterable[str] = (RISK_EVENTS_SCOPE,),
        dpop: bool = True,
        has_role: bool = True,
    ) -> App:
        """Register a service app with its public JWKs and the scopes that are granted to it; return what to change."""
        public = [keys] if isinstance(keys, Mapping) else list(keys)
        app = App(client_id=client_id, keys=public, scopes=set(scopes), dpop=dpop, has_role=has_role)
        self.oauth.apps[client_id] = app
        return app

    def answer(self, request: EmulatedRequest, now: float, wall: float) -> EmulatedResponse:
        """Answer *request* at once: it arrives and departs at the same instant."""
        exchange = self.arrive(request, now)
        try:
            return self.respond(exchange, now, wall)
        finally:
            self.depart(exchange)

    def arrive(self, request: EmulatedRequest, now: float) -> Exchange:
        """Record the arrival and take a concurrency slot if one is free. *request* may get its body later."""
        exchange = Exchange(0, now, request, holds_slot=self.in_flight < self.concurrency)
        self.in_flight += exchange.holds_slot
        if request.path.partition("?")[0] == RISK_EVENTS_PATH:
            self._arrived += 1
            exchange.number = self._arrived
            self.requests.append(exchange)
        return exchange

    def depart(self, exchange: Exchange) -> None:
        """Free the slot of *exchange*; a second call does nothing. A request that found no slot holds none."""
        self.in_flight -= exchange.holds_slot
        exchange.holds_slot = False

    def respond(self, exchange: Exchange, now: float, wall: float) -> EmulatedResponse:
        """Judge *exchange*: its signals are ingested, all or none, and the answer is returned."""
        try:
            return self._complete(exchange, self._route(exchange, now, wall), wall)
        except _Refused as refused:
            return self._error(exchange, refused, wall)

    def fail(self, exchange: Exchange, fault: Fault, wall: float) -> EmulatedResponse | None:
        """Return the answer that *fault* puts in place of the org's own; `None` if it has none."""
        if fault.status is None:
            return None
        if fault.status == 429 and exchange.number:
            with suppress(_Refused):  # a rate limit is met after the credentials, and they are spent by then
                self._authenticate(exchange.request, (RISK_EVENTS_SCOPE,), wall)
        headers = fault.headers
        if fault.rate is not None:
            limit, remaining, reset_in = fault.rate
            headers += self._rate_headers(limit, remaining, wall + reset_in)
        exchange.error_code = None
        if fault.code is not None:
            return self._error(exchange, _Refused(fault.status, fault.code, headers=headers), wall)
        return self._complete(exchange, EmulatedResponse(fault.status, headers, fault.body), wall, fault.from_okta)

    def spend(self, count: int, now: float, wall: float) -> None:
        """Use up *count* calls of the org's quota, as other tokens on the same bucket would."""
        self._roll(now, wall)
        self._calls.extend([(now, "others")] * count)

    def most_in_any_window(self, period: float = 60.0) -> int:
        """
        Return how many requests reached the risk endpoint, at most, within *period* seconds, wherever they start.

        All arrivals count, whatever their answer. Two that are exactly *period* apart are not in one window.
        """
        times = [exchange.arrived_at for exchange in self.requests]
        most = first = 0
        for last, arrived_at in enumerate(times):
            while times[first] + period <= arrived_at:
                first += 1
            most = max(most, last - first + 1)
        return most

    # -------------------------------------------------------------------------------------------- the checks, in order

    def _route(self, exchange: Exchange, now: float, wall: float) -> EmulatedResponse:
        """Hand the request to its endpoint, path first and method second."""
        routes: dict[str, dict[str, Callable[[Exchange, float, float], EmulatedResponse]]] = {
            RISK_EVENTS_PATH: {"POST": self._risk_events},
            TOKEN_PATH: {"POST": self._token},
            PROVIDERS_PATH: {"GET": self._list_providers, "POST": self._create_provider},
            f"{PROVIDERS_PATH}/": {
                "GET": self._get_provider,
                "PUT": self._replace_provider,
                "DELETE": self._delete_provider,
            },
        }
        request = exchange.request
        path = request.path.partition("?")[0]
        if path.startswith(f"{PROVIDERS_PATH}/"):
            path = f"{PROVIDERS_PATH}/"
        if path == RISK_EVENTS_PATH and self.removed is not None:
            raise _Refused(_GONE[self.removed], self.removed)
        if path not in routes:
            raise _Refused(404, "E0000008")
        if request.method not in routes[path]:
            raise _Refused(405, "E0000022")
        if request.method in ("POST", "PUT") and not request.body and not request.has_length:
            raise _Refused(411)
        if len(request.body or b"") > MAX_BODY:
            raise _Refused(413)  # *unverified*: no document names a limit
        return routes[path][request.method](exchange, now, wall)

    def _risk_events(self, exchange: Exchange, now: float, wall: float) -> EmulatedResponse:
        request = exchange.request
        principal = self._authenticate(request, (RISK_EVENTS_SCOPE,), wall)
        if not self.feature_enabled:
            raise _Refused(401, "E0000015")
        if not exchange.holds_slot:
            raise _Refused(429, "E0000047", headers=self._rate_headers(0, 0, wall + _CROWDED_RESET))
        rate = self._count(principal, now, wall)
        registered = self.provider_registered
        if registered is None:
            registered = principal in [provider["clientId"] for provider in self.providers.values()]
        if not registered:
            raise _Refused(403, "E0000006")  # *unverified*, but the only 403 in the spec
        if not _is_json(request.headers.get("Content-Type", "")):
            raise _Refused(400, "E0000021")
        if not _accepts_json(",".join(request.headers.getall("Accept", ["*/*"]))):
            raise _Refused(400, "E0000019")
        events = _parse(request.body or b"")
        if causes := list(_problems(events, self.max_subjects, self.allow_unknown)):
            raise _Refused(400, "E0000001", causes=causes, headers=rate)
        signals = list(_signals(cast(list[_Event], events), exchange))
        if causes := [f"{where}: was refused" for where, signal in signals if self.poison and self.poison(signal)]:
            raise _Refused(400, "E0000001", causes=causes, headers=rate)
        exchange.signals = tuple(signal for _, signal in signals)
        self.signals.extend(exchange.signals)
        return EmulatedResponse(202, rate)

    # -------------------------------------------------------------------------------------------- credentials

    def _url(self, request: EmulatedRequest) -> str:
        """Return the URL of *request* without its query, as assertions and proofs must have it."""
        base = self.base_url or f"http://{request.headers.get('Host', 'emulator')}"
        return base + request.path.partition("?")[0]

    def _token(self, exchange: Exchange, now: float, wall: float) -> EmulatedResponse:
        request = exchange.request
        try:
            answer, headers = self.oauth.token(request, self._url(request), now, wall + self.clock_skew)
        except Denied as denied:
            if denied.code:
                raise _Refused(denied.status, denied.code, headers=denied.headers) from None
            error = {"error": denied.error, "error_description": denied.description}
            return _json(denied.status, error, denied.headers)
        return _json(200, answer, (*headers, ("Cache-Control", "no-cache, no-store")))

    def _authenticate(self, request: EmulatedRequest, scopes: tuple[str, ...], wall: float) -> str:
        """Return the principal whose share of the rate this request uses; any of *scopes* will do."""
        values = request.headers.getall("Authorization", [])
        credentials = values[0] if len(values) == 1 else ""
        if credentials.startswith("SSWS"):
            sent = credentials.removeprefix("SSWS")
            good = sent == f" {self.token}" if self.strict_token else sent.lstrip(" ") == self.token
            if not (good and self.token_valid):
                raise _Refused(401, "E0000011")
            return "API token"
        scheme = credentials.partition(" ")[0]
        if scheme not in ("Bearer", "DPoP"):
            raise _Refused(403, "E0000005")  # Okta looks for a session cookie then, and finds none
        try:
            token = self.oauth.check_access(request, self._url(request), scopes, wall + self.clock_skew)
        except Denied as denied:
            shown = "DPoP" if "dpop" in denied.error else scheme
            challenge = _challenge(shown, request, scopes[-1], denied)
            raise _Refused(denied.status, headers=(challenge, *denied.headers)) from None
        app = self.oauth.apps.get(token.client_id)
        if app is not None and not app.has_role:
            raise _Refused(403, "E0000006")
        return token.client_id

    # -------------------------------------------------------------------------------------------- risk providers

    def _list_providers(self, exchange: Exchange, now: float, wall: float) -> EmulatedResponse:
        self._authenticate(exchange.request, READ_PROVIDERS, wall)
        return _json(200, [self._shown(provider, exchange) for provider in self.providers.values()])

    def _get_provider(self, exchange: Exchange, now: float, wall: float) -> EmulatedResponse:
        self._authenticate(exchange.request, READ_PROVIDERS, wall)
        return _json(200, self._shown(self._find_provider(exchange), exchange))

    def _create_provider(self, exchange: Exchange, now: float, wall: float) -> EmulatedResponse:
        self._authenticate(exchange.request, MANAGE_PROVIDERS, wall)
        sent = self._read_provider(exchange, None)
        if len(self.providers) >= MAX_PROVIDERS:
            raise _Refused(400, "E0000001", causes=[f"no more than {MAX_PROVIDERS} providers"])  # *unverified* code
        made = datetime.fromtimestamp(wall + self.clock_skew, UTC).strftime("%Y-%m-%d %H:%M:%S")
        provider = {"id": f"00rp{secrets.token_hex(8)}", **sent, "created": made, "lastUpdated": made}
        self.providers[provider["id"]] = provider
        return _json(201, self._shown(provider, exchange))

    def _replace_provider(self, exchange: Exchange, now: float, wall: float) -> EmulatedResponse:
        self._authenticate(exchange.request, MANAGE_PROVIDERS, wall)
        provider = self._find_provider(exchange)
        made = datetime.fromtimestamp(wall + self.clock_skew, UTC).strftime("%Y-%m-%d %H:%M:%S")
        provider |= self._read_provider(exchange, provider["id"]) | {"lastUpdated": made}
        return _json(200, self._shown(provider, exchange))

    def _delete_provider(self, exchange: Exchange, now: float, wall: float) -> EmulatedResponse:
        self._authenticate(exchange.request, MANAGE_PROVIDERS, wall)
        del self.providers[self._find_provider(exchange)["id"]]
        return EmulatedResponse(204, ())

    def _find_provider(self, exchange: Exchange) -> dict[str, Any]:
        wanted = exchange.request.path.partition("?")[0].removeprefix(f"{PROVIDERS_PATH}/")
        if wanted not in self.providers:
            raise _Refused(404, "E0000007")
        return self.providers[wanted]

    def _read_provider(self, exchange: Exchange, own_id: str | None) -> dict[str, str]:
        if not _is_json(exchange.request.headers.get("Content-Type", "")):
            raise _Refused(400, "E0000021")
        try:
            value = json.loads((exchange.request.body or b"").decode())
        except (ValueError, RecursionError):
            raise _Refused(400, "E0000003") from None
        causes = list(_provider_problems(value))
        others = [provider["name"] for provider in self.providers.values() if provider["id"] != own_id]
        if not causes and value["name"] in others:
            causes.append("name: must be unique")
        if causes:
            raise _Refused(400, "E0000001", causes=causes)
        return {"name": value["name"], "clientId": value["clientId"], "action": value.get("action", "log_only")}

    def _shown(self, provider: dict[str, Any], exchange: Exchange) -> dict[str, Any]:
        base = self.base_url or f"http://{exchange.request.headers.get('Host', 'emulator')}"
        href = f"{base}{PROVIDERS_PATH}/{provider['id']}"
        return {**provider, "_links": {"self": {"href": href, "hints": {"allow": ["GET", "PUT", "DELETE"]}}}}

    # -------------------------------------------------------------------------------------------- the rate

    def _roll(self, now: float, wall: float) -> None:
        """Forget the calls that no longer count at *now*."""
        if self.window == "sliding":
            while self._calls and self._calls[0][0] + self.period <= now:
                self._calls.popleft()
        elif now >= self._window_ends:
            self._calls.clear()
            start = now if self.phase is None else now - (now - self.phase) % self.period
            self._window_ends = start + self.period
            self._window_reset = wall + self._window_ends - now  # once a window, lest two clocks' jitter move it

    def _count(self, principal: str, now: float, wall: float) -> _Pairs:
        """
        Count one call and return its rate headers, or refuse it with 429.

        A refused call uses no quota. Okta may well count it, but in a fixed window nothing follows from that.
        """
        self._roll(now, wall)
        everyone = [at for at, _ in self._calls]
        own = [at for at, who in self._calls if who == principal]
        ceiling = max(1, math.floor(round(self.limit * self.principal_share, 6)))
        own_room, org_room = ceiling - len(own), self.limit - len(everyone)
        room = min(own_room, org_room)
        oldest = next(iter(own if own_room <= org_room else everyone), now)
        reset = self._window_reset if self.window == "fixed" else wall + oldest + self.period - now
        limit, shown = (ceiling, room) if self.header_limit == "principal" else (self.limit, org_room)
        if room <= 0:
            raise _Refused(429, "E0000047", headers=self._rate_headers(limit, 0, reset))
        self._calls.append((now, principal))
        return self._rate_headers(limit, shown - 1, reset)

    def _rate_headers(self, limit: int, remaining: int, reset: float) -> _Pairs:
        """Return the headers; Reset is whole seconds, rounded down: only Okta's advice to add one second saves you."""
        sets = [(limit, remaining)]
        if self.duplicate_headers:
            sets.insert(0, (_WIDE_LIMIT, max(0, _WIDE_LIMIT - len(self._calls))))
        return tuple(
            (f"X-Rate-Limit-{name}", str(value))
            for limit, remaining in sets
            for name, value in (("Limit", limit), ("Remaining", remaining), ("Reset", int(reset + self.clock_skew)))
        )

    # -------------------------------------------------------------------------------------------- the answer

    def _error(self, exchange: Exchange, refused: _Refused, wall: float) -> EmulatedResponse:
        if not refused.code:
            return self._complete(exchange, EmulatedResponse(refused.status, refused.headers), wall)
        exchange.error_code = refused.code
        error = {
            "errorCode": refused.code,
            "errorSummary": _SUMMARIES.get(refused.code, refused.code),
            "errorLink": refused.code,
            "errorId": f"oae{secrets.token_urlsafe(16)}",
            "errorCauses": [{"errorSummary": cause} for cause in refused.causes if self.name_causes],
        }
        headers = (("Content-Type", "application/json"), *refused.headers)
        return self._complete(exchange, EmulatedResponse(refused.status, headers, json.dumps(error).encode()), wall)

    def _complete(
        self, exchange: Exchange, response: EmulatedResponse, wall: float, from_okta: bool = True
    ) -> EmulatedResponse:
        """Add what every answer has, unless it has it already. There is no Retry-After: Okta sends none."""
        if exchange.number:
            response = attrs.evolve(response, headers=response.headers + self.oauth.answer_headers())
        common = [
            ("Date", formatdate(wall + self.clock_skew, usegmt=True)),
            ("Content-Length", str(len(response.body))),
        ]
        if from_okta:
            common.append(("X-Okta-Request-Id", secrets.token_urlsafe(20)))
        given = CIMultiDict(response.headers)
        added = tuple((name, value) for name, value in common if name not in given)
        complete = attrs.evolve(response, headers=response.headers + added)
        exchange.status = complete.status
        exchange.request_id = CIMultiDict(complete.headers).get("X-Okta-Request-Id")
        return complete


# ------------------------------------------------------------------------------------------------ the server


class OktaEmulator:
    """
    An `Org` on a loopback port, for as long as `async with` lasts.

    Leaving the block is quick whatever is under way: requests that hang or wait lose their connection.

    Args:
        host: A loopback address; any other is refused, for this server knows one published token.
        port: `0` lets the operating system choose.
        latency: Seconds from the arrival of a request, which is judged at once, to its answer; a number or a function
            that is called once a request.
        script: Asked for a fault when none of `faults` applies.
        options: The keywords of `Org`, which stays reachable as `okta.org`.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        latency: float | Callable[[], float] = 0.0,
        script: Callable[[Exchange], Fault | None] | None = None,
        **options: Unpack[OrgOptions],
    ) -> None:
        self.org = Org(**options)
        self.latency = latency
        self.faults: list[Fault] = []
        """Used up from the front, one for each request to the risk endpoint that meets the fault's condition."""
        self.token_faults: list[Fault] = []
        """The same for the token endpoint."""
        self.script = script
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
        """Take one request through its three moments."""
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
            self.org.depart(exchange)  # before the answer leaves: whoever reads it may come back at once
        return await _send(http, exchange, response)

    async def _decide(self, exchange: Exchange) -> EmulatedResponse | None:
        """Return the answer when it is due; `None` means that the connection is to be closed without one."""
        response = None
        fault = exchange.fault = self._next_fault(exchange)
        if fault is None or fault.ingest:
            response = self.org.respond(exchange, asyncio.get_running_loop().time(), time.time())
        if fault is not None:
            response = self.org.fail(exchange, fault, time.time()) or response
        latency = self.latency() if callable(self.latency) else self.latency
        await asyncio.sleep(latency + (fault.delay if fault else 0.0))
        if fault is not None and fault.ending == "hang":
            await asyncio.get_running_loop().create_future()  # until the client leaves or the server is shut down
        return None if fault is not None and fault.ending == "drop" else response

    def _next_fault(self, exchange: Exchange) -> Fault | None:
        to_token = exchange.request.path == TOKEN_PATH
        if not (exchange.number or to_token):
            return None
        faults = self.token_faults if to_token else self.faults
        for i, fault in enumerate(faults):
            if fault.when is None or fault.when(exchange):
                return faults.pop(i)
        return self.script(exchange) if self.script and not to_token else None


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
    """Return the body, one byte more than `MAX_BODY` at least when it is too long, and never much more."""
    if not http.body_exists:
        return None
    body = bytearray()
    async for chunk in http.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY:
            break
    return bytes(body)


async def _send(http: web.BaseRequest, exchange: Exchange, response: EmulatedResponse | None) -> web.StreamResponse:
    """Write *response*, or as much of it as the fault lets through, or nothing at all."""
    if response is None:
        exchange.status = None
        _close(http)
        return web.StreamResponse()  # aiohttp wants one; it finds the connection closed and writes nothing
    headers = CIMultiDict(response.headers)
    cut = exchange.fault is not None and exchange.fault.ending == "truncate"
    if cut:
        headers["Content-Length"] = str(len(response.body) + 64)
    answer = web.StreamResponse(status=response.status, headers=headers)
    await answer.prepare(http)
    if response.body:
        await answer.write(response.body)
    if cut:
        _close(http)
    return answer


def _close(http: web.BaseRequest) -> None:
    if http.transport is not None:
        http.transport.close()
