"""
The decisions of a strict local Okta org: no sockets, no tasks, no clock.

A simulation on a virtual clock can ask `Org` directly; `OktaEmulator` serves one over HTTP. It shares no code with the
client, so that one mistake cannot pass on both sides. Where Okta's documents leave a choice open, it takes the stricter
one; what no document settles is marked *unverified*. Okta does not publish its order of checks; here it is: path,
method, length, credentials, feature, concurrency, rate, provider, media types, JSON, schema. Every call with good
credentials counts against the rate, also if it is refused afterwards.

Sources, all read 2026-08-21: okta-management-openapi-spec 2025.08.0 (the last with this endpoint); developer.okta.com
/docs/reference/core-okta-api and /rl2-concurrency.
"""

import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from email.utils import formatdate
from typing import Any, cast

import attrs
from multidict import CIMultiDict

from .errors import GONE, Denied, Refused
from .faults import CROWDED_RESET, Exchange, Fault
from .jwt import ALGORITHMS
from .messages import (
    EmulatedRequest,
    EmulatedResponse,
    Headers,
    ReceivedSignal,
    accepts_json,
    is_media_type,
    json_response,
    size,
)
from .oauth import RISK_EVENTS_SCOPE, TOKEN_PATH, App, OAuth
from .options import Options
from .providers import PROVIDERS_PATH, Providers, answer_providers, default_provider, is_registered, scopes_for
from .rate import RateWindow
from .schema import Event, event_problems, read_events, received_signals

RISK_EVENTS_PATH = "/api/v1/risk/events/ip"
MAX_BODY = 4 * 1024 * 1024  # bytes. 20 x 50 subjects with every character escaped come to 3.5 MB; Okta's cap is unknown

_ONE_PROVIDER = f"{PROVIDERS_PATH}/"
_METHODS = {
    RISK_EVENTS_PATH: ("POST",),
    TOKEN_PATH: ("POST",),
    PROVIDERS_PATH: ("GET", "POST"),
    _ONE_PROVIDER: ("GET", "PUT", "DELETE"),
}


@attrs.define(kw_only=True, eq=False)
class Org(Options):
    """
    One org: its options, what it has received, and how it answers.

    `now` is always seconds on one monotonic clock, `wall` epoch seconds; both are the caller's. A caller who wants
    concurrency to count passes the three moments of a request, `arrive`, `respond` and `depart`; one who does not
    calls `answer`. Requests and signals are kept for ever: clear the two lists in a long run.
    """

    requests: list[Exchange] = attrs.field(init=False, factory=list, repr=size)
    """Every request to the risk endpoint, in arrival order."""
    signals: list[ReceivedSignal] = attrs.field(init=False, factory=list, repr=size)
    """Every signal ingested, in order."""
    oauth: OAuth = attrs.field(init=False)
    """Service apps, tokens, nonces, and the options of all that."""
    providers: Providers = attrs.field(init=False, factory=default_provider, repr=False)
    """The risk providers as the API shows them, by id."""
    in_flight: int = attrs.field(init=False, default=0)
    """Concurrency slots taken."""
    _arrived: int = attrs.field(init=False, default=0, repr=False)
    _rate: RateWindow = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.oauth = OAuth(access_tokens=self.access_tokens)
        self._rate = RateWindow(self)

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
        if request.endpoint == RISK_EVENTS_PATH:
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
        except Refused as refused:
            return self._refuse(exchange, refused, wall)

    def fail(self, exchange: Exchange, fault: Fault, wall: float) -> EmulatedResponse | None:
        """Return the answer that *fault* puts in place of the org's own; `None` if it has none."""
        if fault.status is None:
            return None
        if fault.status == 429 and exchange.number:
            with suppress(Refused):  # Okta checks credentials before the rate, so a proof is used up by then
                self._authenticate(exchange.request, (RISK_EVENTS_SCOPE,), wall)
        headers = fault.headers
        if fault.rate is not None:
            limit, remaining, reset_in = fault.rate
            headers += self._rate.headers(limit, remaining, wall + reset_in)
        exchange.error_code = None
        if fault.code is not None:
            return self._refuse(exchange, Refused(fault.status, fault.code, headers=headers), wall)
        return self._complete(exchange, EmulatedResponse(fault.status, headers, fault.body), wall, fault.from_okta)

    def spend(self, count: int, now: float, wall: float) -> None:
        """Use up *count* calls of the org's quota, as other tokens on the same bucket would."""
        self._rate.spend(count, now, wall)

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
        """Check path, method and length, and pass the request to its endpoint."""
        request = exchange.request
        endpoint = _ONE_PROVIDER if request.endpoint.startswith(_ONE_PROVIDER) else request.endpoint
        if endpoint == RISK_EVENTS_PATH and self.removed is not None:
            raise Refused(GONE[self.removed], self.removed)
        if endpoint not in _METHODS:
            raise Refused(404, "E0000008")
        if request.method not in _METHODS[endpoint]:
            raise Refused(405, "E0000022")
        if request.method in ("POST", "PUT") and not request.body and not request.has_length:
            raise Refused(411)
        if len(request.body or b"") > MAX_BODY:
            raise Refused(413)  # *unverified*: no document names a limit
        if endpoint == RISK_EVENTS_PATH:
            return self._risk_events(exchange, now, wall)
        if endpoint == TOKEN_PATH:
            return self._token(request, now, wall)
        self._authenticate(request, scopes_for(request.method), wall)
        return answer_providers(self.providers, request, request.org_url(self.base_url), wall + self.clock_skew)

    def _risk_events(self, exchange: Exchange, now: float, wall: float) -> EmulatedResponse:
        request = exchange.request
        principal = self._authenticate(request, (RISK_EVENTS_SCOPE,), wall)
        if not self.feature_enabled:
            raise Refused(401, "E0000015")
        if not exchange.holds_slot:
            raise Refused(429, "E0000047", headers=self._rate.headers(0, 0, wall + CROWDED_RESET))
        rate = self._rate.count(principal, now, wall)
        registered = self.provider_registered
        if registered is None:
            registered = is_registered(self.providers, principal)
        if not registered:
            raise Refused(403, "E0000006")  # *unverified*, but the only 403 in the spec
        if not is_media_type(request, "application/json"):
            raise Refused(400, "E0000021")
        if not accepts_json(request):
            raise Refused(400, "E0000019")
        exchange.signals = self._read_signals(exchange, rate)
        self.signals.extend(exchange.signals)
        return EmulatedResponse(202, rate)

    def _read_signals(self, exchange: Exchange, rate: Headers) -> tuple[ReceivedSignal, ...]:
        events = read_events(exchange.request.body)
        if causes := list(event_problems(events, self.max_subjects, self.allow_unknown)):
            raise Refused(400, "E0000001", causes=causes, headers=rate)
        signals = list(received_signals(cast(list[Event], events), exchange))
        if causes := [f"{where}: was refused" for where, signal in signals if self.poison and self.poison(signal)]:
            raise Refused(400, "E0000001", causes=causes, headers=rate)
        return tuple(signal for _, signal in signals)

    # -------------------------------------------------------------------------------------------- credentials

    def _url(self, request: EmulatedRequest) -> str:
        """Return the URL of *request* without its query, as assertions and proofs must have it."""
        return request.org_url(self.base_url) + request.endpoint

    def _token(self, request: EmulatedRequest, now: float, wall: float) -> EmulatedResponse:
        try:
            answer = self.oauth.token(request, self._url(request), now, wall + self.clock_skew)
        except Denied as denied:
            if denied.code:
                raise Refused(denied.status, denied.code, headers=denied.headers) from None
            return denied.response()
        return json_response(200, answer, (("Cache-Control", "no-cache, no-store"),))

    def _authenticate(self, request: EmulatedRequest, scopes: tuple[str, ...], wall: float) -> str:
        """Return the principal whose share of the rate this request uses; any of *scopes* is enough."""
        values = request.headers.getall("Authorization", [])
        credentials = values[0] if len(values) == 1 else ""
        if credentials.startswith("SSWS"):
            self._check_api_token(credentials.removeprefix("SSWS"))
            return "API token"
        scheme = credentials.partition(" ")[0]
        if scheme not in ("Bearer", "DPoP"):
            raise Refused(403, "E0000005")  # Okta looks for a session cookie then, and finds none
        try:
            token = self.oauth.check_access(request, self._url(request), scopes, wall + self.clock_skew)
        except Denied as denied:
            challenge = _challenge("DPoP" if "dpop" in denied.error else scheme, request, scopes[-1], denied)
            raise Refused(denied.status, headers=(challenge, *denied.headers)) from None
        app = self.oauth.apps.get(token.client_id)
        if app is not None and not app.has_role:
            raise Refused(403, "E0000006")
        return token.client_id

    def _check_api_token(self, sent: str) -> None:
        good = sent == f" {self.token}" if self.strict_token else sent.lstrip(" ") == self.token
        if not (good and self.token_valid):
            raise Refused(401, "E0000011")

    # -------------------------------------------------------------------------------------------- the answer

    def _refuse(self, exchange: Exchange, refused: Refused, wall: float) -> EmulatedResponse:
        exchange.error_code = refused.code or exchange.error_code
        return self._complete(exchange, refused.response(name_causes=self.name_causes), wall)

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


def _challenge(scheme: str, request: EmulatedRequest, scope: str, denied: Denied) -> tuple[str, str]:
    """Return the WWW-Authenticate header of a refused access token, as Okta writes it, with http:// in its URLs."""
    org = request.org_url("")
    algs = f' algs="{ALGORITHMS}",' if scheme == "DPoP" else ""
    return "WWW-Authenticate", (
        f'{scheme}{algs} authorization_uri="{org}/oauth2/v1/authorize", realm="{org}", scope="{scope}", '
        f'error="{denied.error}", error_description="{denied.description}", resource="{request.endpoint}"'
    )
