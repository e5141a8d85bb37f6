"""
OAuth in the emulated org: service apps, the token endpoint, and the check of access tokens.

It decides for `Org` and, like it, has no sockets, tasks or clock. Sources, read 2026-08-21: developer.okta.com guides
"Implement OAuth for Okta with a service app", "Build a JWT for client authentication", "Configure OAuth 2.0
Demonstrating Proof-of-Possession"; the OAuth 2.0 error code list; oauth-minimal.yaml of 2026.06; RFC 9449.
"""

import json
import math
import secrets
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import attrs

from .errors import Denied
from .jwt import digest, is_signed, is_time, matching_keys, read_jwt, to_base64url
from .messages import EmulatedRequest, Headers, is_media_type
from .proofs import Nonces, UsedIds, check_proof, make_nonce, renew_nonces

TOKEN_PATH = "/oauth2/v1/token"  # noqa: S105 - a path
RISK_EVENTS_SCOPE = "okta.riskEvents.manage"
KNOWN_SCOPES = frozenset(
    {RISK_EVENTS_SCOPE, "okta.riskProviders.read", "okta.riskProviders.manage", "okta.users.read", "okta.logs.read"}
)

_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_MAX_ASSERTION_LIFE = 3600  # seconds an assertion may live


@attrs.frozen(kw_only=True)
class AccessToken:
    """What the org knows of an OAuth access token."""

    client_id: str = "0oa-emulated-service-app"
    scopes: frozenset[str] = frozenset({RISK_EVENTS_SCOPE})
    expires_at: float = math.inf
    """Epoch seconds on the org's own clock."""
    jkt: str | None = None
    """Thumbprint of the DPoP key it is bound to; `None` for a Bearer token."""


@attrs.define(eq=False, kw_only=True)
class App:
    """A service app. Every attribute may be changed between two requests; take a key out to revoke it."""

    client_id: str
    keys: list[Mapping[str, Any]] = attrs.field(repr=False)
    """Public JWKs."""
    scopes: set[str] = attrs.field(factory=set)
    """What an admin has granted."""
    dpop: bool = True
    """Whether it must prove possession, the default for new apps."""
    has_role: bool = True
    """Whether an admin role is assigned; without one every call of the API is 403 E0000006."""
    in_zone: bool = True
    """False: it calls from outside its network zone, 403 access_denied."""


@attrs.define(eq=False, kw_only=True)
class TokenRequest:
    """One request to the token endpoint and what became of it."""

    arrived_at: float
    claims: Mapping[str, Any] = attrs.field(factory=dict)
    """Of the assertion, once its signature was good."""
    header: Mapping[str, Any] = attrs.field(factory=dict)
    proof: Mapping[str, Any] | None = None
    """Claims of the DPoP proof, if one was sent and its signature was good."""
    status: int | None = None
    error: str | None = None


@attrs.define(eq=False, kw_only=True)
class OAuthOptions:
    """What a test may set; every attribute may be changed between two requests."""

    apps: dict[str, App] = attrs.field(factory=dict)
    access_tokens: dict[str, AccessToken] = attrs.field(factory=dict, repr=False)
    """The access tokens that are known; take one out to revoke it."""
    token_lifetime: float = 3600.0
    """Seconds that `expires_in` says; Okta's is fixed."""
    true_lifetime: float | None = None
    """Seconds after which a token really ends, if `expires_in` is wrong."""
    token_limit: int | None = None
    """Token requests in any `token_period`; more are 429 in Okta's error shape."""
    token_period: float = 60.0
    token_failure: tuple[int, str, str] | None = None
    """Status, error and description with which every token request fails; assertions are used up all the same."""
    resource_nonces: bool = False
    """Whether the API demands its nonces in proofs: not documented, but seen in live orgs."""
    resource_nonce_life: int | None = None
    """Accepted requests after which the API's nonce changes."""
    challenges: int = 0
    """How many further requests are answered with yet another nonce, also if theirs is good."""
    announce_nonces: bool = False
    """Send the API's current nonce with every answer to a good proof, so that no challenge is needed."""

    def use_challenge(self) -> bool:
        """Tell whether this request is challenged; one challenge less is left then."""
        is_challenged = self.challenges > 0
        self.challenges -= is_challenged
        return is_challenged


@attrs.define(eq=False, kw_only=True)
class OAuth(OAuthOptions):
    """The authorization server of one org, and the check of what its API is called with."""

    requests: list[TokenRequest] = attrs.field(init=False, factory=list, repr=False)
    """Every request to the token endpoint, in arrival order."""
    resource_nonce: str = attrs.field(init=False, factory=make_nonce, repr=False)
    _used: UsedIds = attrs.field(init=False, factory=UsedIds, repr=False)
    _nonces: Nonces = attrs.field(init=False, factory=list, repr=False)
    _nonce_uses: int = attrs.field(init=False, default=0, repr=False)
    _calls: deque[float] = attrs.field(init=False, factory=deque, repr=False)

    # -------------------------------------------------------------------------------------------- what tests do

    @property
    def spent(self) -> list[str]:
        """Every jti of every assertion and proof with a good signature, in order; a duplicate is a replay."""
        return self._used.in_order

    def rotate_token_nonce(self) -> None:
        """Forget every nonce of the token endpoint."""
        self._nonces.clear()

    def rotate_resource_nonce(self) -> None:
        """Choose another nonce for the API; the old one is no longer good."""
        self.resource_nonce = make_nonce()
        self._nonce_uses = 0

    def revoke_tokens(self) -> None:
        """Revoke every access token that was given out."""
        self.access_tokens.clear()

    # -------------------------------------------------------------------------------------------- the token endpoint

    def token(self, request: EmulatedRequest, url: str, now: float, wall: float) -> dict[str, Any]:
        """Return the token response to *request*, which arrived at the exact *url*; or raise `Denied`."""
        seen = TokenRequest(arrived_at=now)
        self.requests.append(seen)
        try:
            answer = self._token(request, url, seen, now, wall)
        except Denied as denied:
            seen.status, seen.error = denied.status, denied.error or denied.code
            raise
        seen.status = 200
        return answer

    def _token(self, request: EmulatedRequest, url: str, seen: TokenRequest, now: float, wall: float) -> dict[str, Any]:
        form = _form(request)
        if "client_assertion" not in form:
            raise Denied(401, "invalid_client", "No client credentials found.")
        if form.get("client_assertion_type") != _ASSERTION_TYPE:
            raise Denied(400, "invalid_request", "The client_assertion_type is invalid.")
        app = self._authenticate(form["client_assertion"], url, seen, wall)
        self._count(now, wall)
        if self.token_failure is not None:
            raise Denied(*self.token_failure)
        if not app.in_zone:
            raise Denied(403, "access_denied", "The client is not allowed to request from this network zone.")
        if form.get("grant_type") != "client_credentials":
            raise Denied(400, "unsupported_grant_type", "The grant type is not supported by the authorization server.")
        jkt = None
        if app.dpop or "DPoP" in request.headers:
            jkt = self._check_possession(request, url, seen, app, wall)
        return self._give_token(app, _grant(form.get("scope", ""), app), jkt, wall)

    def _count(self, now: float, wall: float) -> None:
        if self.token_limit is None:
            return
        while self._calls and self._calls[0] + self.token_period <= now:
            self._calls.popleft()
        if len(self._calls) >= self.token_limit:
            reset = int(wall + self._calls[0] + self.token_period - now)
            rate = (("X-Rate-Limit-Limit", str(self.token_limit)), ("X-Rate-Limit-Remaining", "0"))
            raise Denied(429, code="E0000047", headers=(*rate, ("X-Rate-Limit-Reset", str(reset))))
        self._calls.append(now)

    def _authenticate(self, assertion: str, url: str, seen: TokenRequest, wall: float) -> App:
        """Check the assertion and use it up, also if the request is refused afterwards."""
        try:
            header, claims = read_jwt(assertion)
        except ValueError:
            raise _bad_client("The client_assertion token could not be parsed.") from None
        app = self.apps.get(str(claims.get("iss")))
        if app is None or claims.get("sub") != claims.get("iss"):
            raise _bad_client("The client_assertion token's 'iss' and 'sub' claims must be the client id.")
        if not is_signed(assertion, header, matching_keys(app.keys, header)):
            raise _bad_client("The client_assertion signature is invalid, or its 'kid' or 'alg' is.")
        seen.header, seen.claims = header, claims
        jti = claims.get("jti")
        if jti is not None and not self._used.use(f"assertion {jti}"):
            raise _bad_client("The client_assertion token has already been used.")
        _check_assertion(claims, url, wall)
        return app

    def _check_possession(self, request: EmulatedRequest, url: str, seen: TokenRequest, app: App, wall: float) -> str:
        jkt, claims = check_proof(request, url, self._used, wall)
        seen.proof = claims
        self._nonces = renew_nonces(self._nonces, wall)
        if app.dpop and claims.get("nonce") not in [nonce for _, nonce in self._nonces]:
            why = "Authorization server requires nonce in DPoP proof."
            raise Denied(400, "use_dpop_nonce", why, headers=(("dpop-nonce", self._nonces[-1][1]),))
        return jkt

    def _give_token(self, app: App, scopes: list[str], jkt: str | None, wall: float) -> dict[str, Any]:
        text = _make_token(app, scopes, jkt)
        life = self.token_lifetime if self.true_lifetime is None else self.true_lifetime
        self.access_tokens[text] = AccessToken(
            client_id=app.client_id, scopes=frozenset(scopes), expires_at=wall + life, jkt=jkt
        )
        return {
            "token_type": "DPoP" if jkt else "Bearer",
            "expires_in": int(self.token_lifetime),
            "access_token": text,
            "scope": " ".join(scopes),
        }

    # -------------------------------------------------------------------------------------------- the resource

    def check_access(self, request: EmulatedRequest, url: str, scopes: Sequence[str], wall: float) -> AccessToken:
        """
        Return the token that *request* to the exact *url* may use; any of *scopes* is enough.

        Raises `Denied`, whose body is empty and whose error belongs into WWW-Authenticate.
        """
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        token = self.access_tokens.get(text)
        if token is None:
            raise Denied(401, "invalid_token", "The access token is invalid.")
        if token.jkt is not None and scheme == "Bearer":
            raise Denied(400, "invalid_request", "The resource request requires a DPoP proof.")
        if token.jkt is None and scheme == "DPoP":
            raise Denied(401, "invalid_token", "The access token is not DPoP bound.")
        if token.jkt is not None:
            self._check_bound(request, url, text, token, wall)
        if token.expires_at <= wall:
            raise Denied(401, "invalid_token", "The access token expired.")
        if not token.scopes.intersection(scopes):
            raise Denied(403, "insufficient_scope", "The access token provided does not contain the required scopes.")
        return token

    def _check_bound(self, request: EmulatedRequest, url: str, text: str, token: AccessToken, wall: float) -> None:
        jkt, claims = check_proof(request, url, self._used, wall)
        if jkt != token.jkt:
            raise Denied(400, "invalid_dpop_proof", "The DPoP proof's key is not the one the token is bound to.")
        if claims.get("ath") != digest(text):
            raise Denied(400, "invalid_dpop_proof", "The DPoP proof's 'ath' claim is invalid.")
        if self.resource_nonces:
            self._check_nonce(claims.get("nonce"))

    def _check_nonce(self, nonce: object) -> None:
        if is_challenged := self.use_challenge():
            self.rotate_resource_nonce()
        if is_challenged or nonce != self.resource_nonce:
            why = "Resource server requires nonce in DPoP proof."
            raise Denied(400, "use_dpop_nonce", why, headers=(("DPoP-Nonce", self.resource_nonce),))
        self._nonce_uses += 1
        if self.resource_nonce_life is not None and self._nonce_uses >= self.resource_nonce_life:
            self.rotate_resource_nonce()

    def answer_headers(self) -> Headers:
        """Return what goes with every answer of the API to a good proof."""
        return (("DPoP-Nonce", self.resource_nonce),) if self.resource_nonces and self.announce_nonces else ()


def _bad_client(description: str) -> Denied:
    return Denied(401, "invalid_client", description)


def _check_assertion(claims: Mapping[str, Any], url: str, wall: float) -> None:
    issued, ends = claims.get("iat"), claims.get("exp")
    if claims.get("aud") != url:
        raise _bad_client("The audience claim for client_assertion must be the endpoint invoked for the request.")
    if not is_time(ends) or ends <= wall or ends > wall + _MAX_ASSERTION_LIFE:
        raise _bad_client("The client_assertion token is expired, or expires in more than an hour.")
    if issued is not None and (not is_time(issued) or issued > wall):
        raise _bad_client("The client_assertion token was issued in the future.")


def _form(request: EmulatedRequest) -> dict[str, str]:
    if not is_media_type(request, "application/x-www-form-urlencoded"):
        raise Denied(400, code="E0000021")
    try:
        pairs = parse_qsl((request.body or b"").decode("ascii"), keep_blank_values=True, strict_parsing=True)
    except ValueError:
        raise Denied(400, "invalid_request", "The request body could not be parsed.") from None
    form = dict(pairs)
    if len(form) != len(pairs) or "?" in request.path:
        raise Denied(400, "invalid_request", "The request has repeated or misplaced parameters.")  # *unverified* code
    return form


def _grant(asked: str, app: App) -> list[str]:
    """Return the scopes that are granted: those asked for that the app has."""
    scopes = asked.split(" ")
    if not asked:
        raise Denied(400, "invalid_scope", "The scope is missing.")
    if unknown := [scope for scope in scopes if scope not in KNOWN_SCOPES | app.scopes]:
        raise Denied(400, "invalid_scope", f"One or more scopes are not configured for this server: {unknown[0]}")
    granted = [scope for scope in scopes if scope in app.scopes]
    if not granted:
        raise Denied(400, "consent_required", "You are not allowed any of the requested scopes.")
    return granted


def _make_token(app: App, scopes: Iterable[str], jkt: str | None) -> str:
    claims: dict[str, object] = {"sub": app.client_id, "scp": list(scopes), "jti": make_nonce()}
    if jkt is not None:
        claims["cnf"] = {"jkt": jkt}
    parts = ({"alg": "RS256", "typ": "JWT"}, claims)
    encoded = [to_base64url(json.dumps(part, separators=(",", ":")).encode()) for part in parts]
    return ".".join([*encoded, to_base64url(secrets.token_bytes(64))])  # only this org reads it, and it keeps a list
