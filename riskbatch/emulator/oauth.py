"""
The OAuth half of the local Okta org: service apps, the token endpoint, DPoP proofs, and what is remembered of them.

It decides for `riskbatch.emulator.Org` and, like it, has no sockets, tasks or clock, and shares no code with the
client. Signatures are checked with `cryptography` itself, imported only when one is to be checked, so the emulator
works without it as long as no app signs anything.

It errs on the harsh side: ids are remembered for ever and spent even by requests that are refused afterwards, URLs are
compared byte by byte, nothing may be from the future. Sources, read 2026-08-21: developer.okta.com guides
"Implement OAuth for Okta with a service app", "Build a JWT for client authentication", "Configure OAuth 2.0
Demonstrating Proof-of-Possession"; the OAuth 2.0 error code list; oauth-minimal.yaml of 2026.06; RFC 9449.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard
from urllib.parse import parse_qsl

import attrs
from multidict import MultiMapping

if TYPE_CHECKING:
    from .org import EmulatedRequest

TOKEN_PATH = "/oauth2/v1/token"  # noqa: S105 - a path
RISK_EVENTS_SCOPE = "okta.riskEvents.manage"
KNOWN_SCOPES = frozenset(
    {RISK_EVENTS_SCOPE, "okta.riskProviders.read", "okta.riskProviders.manage", "okta.users.read", "okta.logs.read"}
)
ALGORITHMS = "RS256 RS384 RS512 ES256 ES384 ES512"

_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
_MOST_LIFE = 3600  # seconds an assertion may live
_PROOF_AGE = 300  # seconds
_NONCE_ROTATES = 24 * 3600.0  # seconds; guide "DPoP"
_NONCE_WORKS = 3 * 24 * 3600.0  # seconds after it was generated


def _random() -> str:
    return secrets.token_urlsafe(24)


_Headers = tuple[tuple[str, str], ...]


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


class Denied(Exception):  # noqa: N818 - the request is denied; nothing here is in error
    """The request is refused: in OAuth's shape with *error* and *description*, or in Okta's with *code*."""

    def __init__(
        self, status: int, error: str = "", description: str = "", *, code: str = "", headers: _Headers = ()
    ) -> None:
        super().__init__(status, error or code)
        self.status = status
        self.error = error
        self.description = description
        self.code = code
        self.headers = headers


@attrs.define(eq=False, kw_only=True)
class OAuth:
    """The authorization server of one org, and the resource server's memory of proofs."""

    apps: dict[str, App] = attrs.field(factory=dict)
    access_tokens: dict[str, AccessToken] = attrs.field(factory=dict, repr=False)
    """The access tokens that are known; take one out to revoke it."""
    token_lifetime: float = 3600.0
    """The `expires_in` that is told; Okta's is fixed."""
    true_lifetime: float | None = None
    """Seconds after which a token ends in truth, if that is not what it was told."""
    token_limit: int | None = None
    """Token requests in any `token_period`; more are 429 in Okta's error shape."""
    token_period: float = 60.0
    token_failure: tuple[int, str, str] | None = None
    """Status, error and description with which every token request fails, assertions spent all the same."""
    resource_nonces: bool = False
    """Whether the API wants its nonces in proofs: not documented, but seen in live orgs."""
    resource_nonce_life: int | None = None
    """Accepted requests after which the API's nonce rotates."""
    challenges: int = 0
    """How many further requests are challenged with yet another nonce, however good theirs is."""
    announce_nonces: bool = False
    """Send the API's current nonce with every answer to a good proof, so that no challenge is needed."""

    requests: list[TokenRequest] = attrs.field(init=False, factory=list, repr=False)
    """Every request to the token endpoint, in arrival order."""
    spent: list[str] = attrs.field(init=False, factory=list, repr=False)
    """Every jti of every assertion and proof with a good signature, in order; a duplicate is a replay."""
    resource_nonce: str = attrs.field(init=False, factory=_random, repr=False)
    _spent: set[str] = attrs.field(init=False, factory=set, repr=False)
    _nonces: list[tuple[float, str]] = attrs.field(init=False, factory=list, repr=False)
    _uses: int = attrs.field(init=False, default=0, repr=False)
    _calls: deque[float] = attrs.field(init=False, factory=deque, repr=False)

    # -------------------------------------------------------------------------------------------- what tests do

    def rotate_token_nonce(self) -> None:
        """Forget every nonce of the token endpoint."""
        self._nonces.clear()

    def rotate_resource_nonce(self) -> None:
        """Choose another nonce for the API; the old one is not good any more."""
        self.resource_nonce = _random()
        self._uses = 0

    def revoke_tokens(self) -> None:
        """Revoke every access token that was given out."""
        self.access_tokens.clear()

    # -------------------------------------------------------------------------------------------- the token endpoint

    def token(self, request: EmulatedRequest, url: str, now: float, wall: float) -> tuple[dict[str, Any], _Headers]:
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

    def _token(
        self, request: EmulatedRequest, url: str, seen: TokenRequest, now: float, wall: float
    ) -> tuple[dict[str, Any], _Headers]:
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
            jkt = self._possession(request, url, seen, app, wall)
        scopes = _grant(form.get("scope", ""), app)
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
        }, ()

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
        """Check the assertion and spend it, whatever becomes of the request."""

        def deny(description: str) -> Denied:
            return Denied(401, "invalid_client", description)

        try:
            header, claims = _read_jwt(assertion)
        except ValueError:
            raise deny("The client_assertion token could not be parsed.") from None
        app = self.apps.get(str(claims.get("iss")))
        if app is None or claims.get("sub") != claims.get("iss"):
            raise deny("The client_assertion token's 'iss' and 'sub' claims must be the client id.")
        if not _is_signed(assertion, header, _fitting(app.keys, header)):
            raise deny("The client_assertion signature is invalid, or its 'kid' or 'alg' is.")
        seen.header, seen.claims = header, claims
        jti, issued, ends = claims.get("jti"), claims.get("iat"), claims.get("exp")
        if jti is not None and not self._spend(f"assertion {jti}"):
            raise deny("The client_assertion token has already been used.")
        if claims.get("aud") != url:
            raise deny("The audience claim for client_assertion must be the endpoint invoked for the request.")
        if not _is_time(ends) or ends <= wall or ends > wall + _MOST_LIFE:
            raise deny("The client_assertion token is expired, or expires in more than an hour.")
        if issued is not None and (not _is_time(issued) or issued > wall):
            raise deny("The client_assertion token was issued in the future.")
        return app

    def _possession(self, request: EmulatedRequest, url: str, seen: TokenRequest, app: App, wall: float) -> str:
        jkt, claims = self._check_proof(request.headers, request.method, url, wall)
        seen.proof = claims
        self._nonces = [(at, nonce) for at, nonce in self._nonces if wall < at + _NONCE_WORKS]
        if not self._nonces or wall >= self._nonces[-1][0] + _NONCE_ROTATES:
            self._nonces.append((wall, _random()))
        if app.dpop and claims.get("nonce") not in [nonce for _, nonce in self._nonces]:
            raise Denied(
                400,
                "use_dpop_nonce",
                "Authorization server requires nonce in DPoP proof.",
                headers=(("dpop-nonce", self._nonces[-1][1]),),
            )
        return jkt

    # -------------------------------------------------------------------------------------------- the resource

    def check_access(self, request: EmulatedRequest, url: str, scopes: Sequence[str], wall: float) -> AccessToken:
        """
        Return the token that *request* to the exact *url* may use; any of *scopes* will do.

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
        jkt, claims = self._check_proof(request.headers, request.method, url, wall)
        if jkt != token.jkt:
            raise Denied(400, "invalid_dpop_proof", "The DPoP proof's key is not the one the token is bound to.")
        if claims.get("ath") != _digest(text):
            raise Denied(400, "invalid_dpop_proof", "The DPoP proof's 'ath' claim is invalid.")
        if not self.resource_nonces:
            return
        if self.challenges > 0 or claims.get("nonce") != self.resource_nonce:
            if self.challenges > 0:
                self.challenges -= 1
                self.rotate_resource_nonce()
            why = "Resource server requires nonce in DPoP proof."
            raise Denied(400, "use_dpop_nonce", why, headers=(("DPoP-Nonce", self.resource_nonce),))
        self._uses += 1
        if self.resource_nonce_life is not None and self._uses >= self.resource_nonce_life:
            self.rotate_resource_nonce()

    def answer_headers(self) -> _Headers:
        """Return what goes with every answer of the API to a good proof."""
        return (("DPoP-Nonce", self.resource_nonce),) if self.resource_nonces and self.announce_nonces else ()

    # -------------------------------------------------------------------------------------------- proofs and ids

    def _check_proof(
        self, headers: MultiMapping[str], method: str, url: str, wall: float
    ) -> tuple[str, Mapping[str, Any]]:
        """Return thumbprint and claims of the one DPoP proof; its jti is spent even if it is refused afterwards."""

        def deny(description: str) -> Denied:
            return Denied(400, "invalid_dpop_proof", description)

        proofs = headers.getall("DPoP", ())
        if len(proofs) != 1:
            raise deny("The DPoP proof JWT header is missing." if not proofs else "There are several DPoP headers.")
        try:
            header, claims = _read_jwt(proofs[0])
        except ValueError:
            raise deny("The DPoP proof JWT could not be parsed.") from None
        jwk = header.get("jwk")
        if header.get("typ") != "dpop+jwt":
            raise deny("The DPoP proof JWT's 'typ' header must be 'dpop+jwt'.")
        if not isinstance(jwk, dict) or {"d", "k", "p", "q"}.intersection(jwk):
            raise deny("The DPoP proof JWT's 'jwk' header must be a public key.")
        if not _is_signed(proofs[0], header, [jwk]):
            raise deny("The DPoP proof JWT's signature or 'alg' is invalid.")
        jti, issued = claims.get("jti"), claims.get("iat")
        if not isinstance(jti, str) or not jti:
            raise deny("The DPoP proof JWT's 'jti' claim is missing.")
        if not self._spend(f"proof {jti}"):
            raise deny("The DPoP proof JWT has already been used.")
        if claims.get("htm") != method:
            raise deny("The DPoP proof JWT's 'htm' claim is invalid.")
        if claims.get("htu") != url:
            raise deny("The DPoP proof JWT's 'htu' claim is invalid.")
        if not _is_time(issued) or issued > wall:
            raise deny("The DPoP proof JWT was issued in the future.")
        if issued < wall - _PROOF_AGE:
            raise deny("The DPoP proof JWT was issued more than five minutes in the past.")
        return _thumbprint(jwk), claims

    def _spend(self, jti: str) -> bool:
        """Remember *jti*, and tell whether it is new."""
        self.spent.append(jti)
        fresh = jti not in self._spent
        self._spent.add(jti)
        return fresh


# ------------------------------------------------------------------------------------------------ forms and scopes


def _form(request: EmulatedRequest) -> dict[str, str]:
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
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
    claims: dict[str, object] = {"sub": app.client_id, "scp": list(scopes), "jti": _random()}
    if jkt is not None:
        claims["cnf"] = {"jkt": jkt}
    parts = ({"alg": "RS256", "typ": "JWT"}, claims)
    encoded = [_b64(json.dumps(part, separators=(",", ":")).encode()) for part in parts]
    return ".".join([*encoded, _b64(secrets.token_bytes(64))])  # nobody but this org reads it, so nobody checks it


# ------------------------------------------------------------------------------------------------ JSON Web Tokens


def _b64(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    if "=" in text or not text.isascii():
        raise ValueError("not base64url without padding")
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _digest(text: str) -> str:
    return _b64(hashlib.sha256(text.encode()).digest())


def _is_time(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _read_jwt(jwt: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return header and claims; raise ValueError if they are none."""
    parts = jwt.split(".")
    if len(parts) != 3:
        raise ValueError("not three parts")
    header, claims = (json.loads(_unb64(part)) for part in parts[:2])
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise ValueError("not objects")
    return header, claims


def _thumbprint(jwk: Mapping[str, Any]) -> str:
    """Return the thumbprint of RFC 7638: the required members in lexical order."""
    names = ("crv", "kty", "x", "y") if jwk.get("kty") == "EC" else ("e", "kty", "n")
    return _digest(json.dumps({name: jwk[name] for name in names}, separators=(",", ":")))


def _fitting(keys: Sequence[Mapping[str, Any]], header: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the keys that the header's kid may mean: with several keys it must name one."""
    kid = header.get("kid")
    if kid is None:
        return list(keys) if len(keys) == 1 else []
    return [key for key in keys if key.get("kid") == kid]


def _is_signed(jwt: str, header: Mapping[str, Any], keys: Sequence[Mapping[str, Any]]) -> bool:
    algorithm = header.get("alg")
    if algorithm not in ALGORITHMS.split() or len(keys) != 1 or keys[0].get("alg", algorithm) != algorithm:
        return False
    signed, _, signature = jwt.rpartition(".")
    try:
        return _verify(str(algorithm), keys[0], signed.encode("ascii"), _unb64(signature))
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _verify(algorithm: str, jwk: Mapping[str, Any], signed: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - only where OAuth is used
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils  # noqa: PLC0415

    hash_ = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}[algorithm[2:]]

    def number(name: str) -> int:
        return int.from_bytes(_unb64(jwk[name]), "big")

    try:
        if algorithm.startswith("RS"):
            rsa.RSAPublicNumbers(number("e"), number("n")).public_key().verify(
                signature, signed, padding.PKCS1v15(), hash_
            )
            return jwk.get("kty") == "RSA"
        curves = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
        curve = curves[_CURVES[algorithm]]
        size = (curve.key_size + 7) // 8
        if jwk.get("kty") != "EC" or jwk.get("crv") != _CURVES[algorithm] or len(signature) != 2 * size:
            return False
        r, s = (int.from_bytes(half, "big") for half in (signature[:size], signature[size:]))
        public = ec.EllipticCurvePublicNumbers(number("x"), number("y"), curve).public_key()
        public.verify(utils.encode_dss_signature(r, s), signed, ec.ECDSA(hash_))
    except InvalidSignature:
        return False
    return True
