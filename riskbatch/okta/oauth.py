"""
What a service app holds at its org: a token from the token endpoint, and a proof for every request.

Still no I/O: `AppCredentials.renew` yields requests. Rules that hold throughout, each learnt from a defect somebody
else had (terraform-provider-okta 2392, okta-sdk-nodejs 453, okta-sdk-python 363): every attempt has an assertion and a
proof of its own, since Okta remembers their ids even when it answers 429 or asks for a nonce; URLs in them are exact;
a nonce is adopted from any answer, and those of the two servers are kept apart; what an old answer says about an old
token does not touch the new one.
"""

import json
import logging
import math
import secrets
from base64 import urlsafe_b64decode
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from urllib.parse import urlencode

from attrs import evolve, frozen

from ..log import log_fields
from .credentials import Now, TokenFlow, Unauthenticated
from .error_bodies import OAuthError, describe, error_code, oauth_error
from .http import Request, Response, date_of, json_of
from .keys import SigningKey, token_hash
from .rate_limits import budgets
from .redaction import plain, redact

logger = logging.getLogger("riskbatch")

TOKEN_PATH = "/oauth2/v1/token"  # noqa: S105 - of the org authorization server; no other grants okta.* scopes
_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_ASSERTION_LIFETIME = 300  # seconds of an assertion; Okta takes up to an hour
_BACKDATED_BY = 5  # seconds that stamps are put back, since Okta refuses what is from the future
_CLOCK_TOLERANCE = 3.0  # seconds: a `Date` further from our clock may be the reason for a refusal
_MAX_REFUSALS = 3  # refusals in a row that a new proof, nonce or token answers at once; more are trouble
_RENEW_BEFORE = 300.0  # seconds before its end that a token is renewed, or a fifth of a short life; as okta-sdk-python
_DEFAULT_LIFETIME = 3600.0  # seconds; Okta's fixed lifetime, if the answer does not say
_MAX_WAIT = 120.0  # seconds that a server can make us wait; its windows have 60
_MAX_LIFETIME = 86_400.0  # seconds
_MAX_NONCE = 1024  # characters
_NO_FEATURE = "E0000015"  # a 401 that is not about the token; Okta's error code list
_TEMPORARY = ("temporarily_unavailable", "server_error", "slow_down", "use_dpop_nonce")  # OAuth errors, also in a 400


@frozen(repr=False)
class Token:
    """
    An access token.

    Attributes:
        text: The secret.
        scheme: `Bearer` or `DPoP`.
        renew_at: When a new one should be had, on the loop's clock.
        ends_at: When it is not used any more.
        scopes: What it was granted.
    """

    text: str
    scheme: str
    renew_at: float
    ends_at: float
    scopes: frozenset[str]

    @property
    def authorization(self) -> str:
        """The header's value."""
        return f"{self.scheme} {self.text}"


class AppCredentials:
    """
    A service app at one org: its token, its DPoP key, the nonces, and what the org has taught us about itself.

    Args:
        org: The URL of the org, without a trailing slash.
        client_id: As of `ServiceApp`, and so are the others.
        private_key: What signs assertions.
        key_id: The `kid` of that key.
        scopes: What to ask for.
        dpop: `None` learns from the org whether tokens are bound to a key.
    """

    def __init__(
        self,
        org: str,
        *,
        client_id: str,
        private_key: SigningKey,
        key_id: str | None,
        scopes: Sequence[str],
        dpop: bool | None,
    ) -> None:
        self._client_id, self._private_key, self._key_id = client_id, private_key, key_id
        self._scopes, self._dpop = scopes, dpop
        self._url = f"{org}{TOKEN_PATH}"
        self._token: Token | None = None
        self._issued: deque[str] = deque(maxlen=24)  # secrets that a later answer may echo
        self._proof_key: SigningKey | None = SigningKey.generate() if dpop else None
        self._token_nonce: str | None = None
        self._nonce: str | None = None  # of the resource server
        self._ahead = timedelta()  # added to our clock for stamps, after a refusal that may be due to it
        self._refusals = 0  # in a row, of requests that carried the newest token, nonce and key
        self._told_missing: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        held = f"a {self._token.scheme} token" if self._token else "no token"
        return f"<AppCredentials {self._client_id} at {self._url}: {held}>"

    def usable(self, now: float) -> bool:
        """Return whether there is a token that has not ended yet."""
        return self._token is not None and now < self._token.ends_at

    def renew_at(self) -> float:
        """Return when the next token should be fetched."""
        return self._token.renew_at if self._token else -math.inf

    def redact(self, text: str) -> str:
        """Return *text* without key, tokens, assertions and proofs."""
        return redact(text, [*self._private_key.secrets, *self._issued])

    # -- the token endpoint

    def renew(self, now: Now) -> TokenFlow:
        """Fetch a token: prove possession if the org asks for it, and carry the nonce that it asks for then."""
        challenges = 0
        clock, second_chance = self._ahead, True
        while True:
            left, proved, nonce = now, self._proof_key is not None, self._token_nonce
            response, now = yield self._token_request(now)
            self._token_nonce = _nonce(response) or self._token_nonce
            if response.status == 200:
                self._adopt(response, left)
                return
            told = oauth_error(response)
            error = told.error if told else ""
            of_proof = error in ("use_dpop_nonce", "invalid_dpop_proof")
            if of_proof and not proved and self._dpop is None:
                self._proof_key = SigningKey.generate()
            elif of_proof and proved and self._token_nonce != nonce and challenges < _MAX_REFUSALS:
                challenges += 1
            elif second_chance and self._change_what_may_be_wrong(response, now, error):
                second_chance = False
            else:
                if not second_chance:
                    self._ahead = clock  # it was not the clock
                hint = "the app demands DPoP, which dpop=False forbids" if of_proof and not proved else ""
                raise self._failure(response, hint)

    def _change_what_may_be_wrong(self, response: Response, now: Now, error: str) -> bool:
        """Change what may have caused *error*, the nonce or the clock; return whether there was anything to change."""
        if error == "invalid_dpop_proof" and self._token_nonce is not None and _nonce(response) is None:
            self._token_nonce = None
            return True
        return error in ("invalid_client", "invalid_dpop_proof") and self._adopt_their_clock(response, now)

    def _adopt_their_clock(self, response: Response, now: Now) -> bool:
        """Use the server's clock for stamps from now on, if it differs from ours; return whether it does."""
        date = date_of(response.headers)
        if date is None or abs(date - now.wall - self._ahead).total_seconds() <= _CLOCK_TOLERANCE:
            return False
        self._ahead = date - now.wall
        return True

    def _token_request(self, now: Now) -> Request:
        form = {
            "grant_type": "client_credentials",
            "scope": " ".join(self._scopes),
            "client_assertion_type": _ASSERTION_TYPE,
            "client_assertion": self._assertion(now),
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        request = Request("POST", self._url, headers, urlencode(form).encode())
        if self._proof_key is not None:
            headers["DPoP"] = self._prove(request, now, self._token_nonce)
        return request

    def _assertion(self, now: Now) -> str:
        issued = self._stamp(now)
        claims = {
            "iss": self._client_id,
            "sub": self._client_id,
            "aud": self._url,
            "iat": issued,
            "exp": issued + _ASSERTION_LIFETIME,
            "jti": secrets.token_urlsafe(24),
        }
        header: dict[str, object] = {"typ": "JWT"}
        if self._key_id:
            header["kid"] = self._key_id
        return self._issue(self._private_key, header, claims)

    def _adopt(self, response: Response, left: Now) -> None:
        """Take the token in *response*, to a request that *left* then: its life is counted from there."""
        token = _parse(response, left.loop, frozenset(self._scopes))
        if token is None:
            raise self._failure(response, "the answer holds no usable access token")
        if token.scheme == "DPoP" and self._proof_key is None:
            raise self._failure(response, "a DPoP token was given to a request without a proof", denied=True)
        if token.scheme == "Bearer" and self._dpop:
            raise self._failure(response, "a Bearer token was given though dpop=True insists on DPoP", denied=True)
        self._token = token
        self._issued.append(token.text)
        missing = frozenset(self._scopes) - token.scopes
        if missing and missing != self._told_missing:
            text, scopes = "%s was not granted %s: grant it to the app under Okta API Scopes", " ".join(sorted(missing))
            logger.warning(text, self._client_id, scopes, extra=log_fields("scope_missing", scopes=scopes))
        self._told_missing = missing

    def _failure(self, response: Response, why: str = "", *, denied: bool | None = None) -> Unauthenticated:
        told = oauth_error(response)
        said = describe(response) if response.status != 200 else ""
        reason = plain(self.redact(f"no access token: {'; '.join(filter(None, [why, said]))}"))
        if response.status == 429:
            return Unauthenticated(reason, denied=False, retry_after=_wait(response))
        if denied is None:
            known = told is not None or error_code(response) is not None
            denied = 300 <= response.status < 500 and response.status != 408 and (known or response.status != 400)
            denied = denied and (told is None or told.error not in _TEMPORARY)
        return Unauthenticated(reason, denied)

    # -- the resource

    def sign(self, request: Request, now: Now) -> Request:
        """Return *request* with the token and, if that is bound to our key, with a fresh proof."""
        token = self._token
        if token is None:
            raise Unauthenticated("no access token yet", denied=False)
        headers = {**request.headers, "Authorization": token.authorization}
        if token.scheme == "DPoP":
            headers["DPoP"] = self._prove(request, now, self._nonce, ath=token_hash(token.text))
        return evolve(request, headers=headers)

    def _prove(self, request: Request, now: Now, nonce: str | None, **claims: object) -> str:
        """Return a proof for one attempt at *request*, RFC 9449 section 4.2."""
        claims |= {
            "jti": secrets.token_urlsafe(24),
            "htm": request.method,
            "htu": request.url.partition("#")[0].partition("?")[0],
            "iat": self._stamp(now),
        }
        if nonce is not None:
            claims["nonce"] = nonce
        key = self._proof_key
        assert key is not None  # noqa: S101 - every caller makes one first
        return self._issue(key, {"typ": "dpop+jwt", "jwk": key.public}, claims)

    def _issue(self, key: SigningKey, header: dict[str, object], claims: dict[str, object]) -> str:
        jwt = key.sign(header, claims)
        self._issued.append(jwt)
        return jwt

    def _stamp(self, now: Now) -> int:
        return int((now.wall + self._ahead).timestamp()) - _BACKDATED_BY

    def learn(self, request: Request, response: Response, now: Now) -> bool:
        """
        Take what the *response* to a signed *request* says: keep its nonce, and drop a token that it refuses.

        Returns True if a new attempt may well be taken: with a newer nonce, token or proof than the refused one had.
        Up to three such refusals in a row, that is; then they are the trouble that they look like.
        """
        token, carried, held = self._token, _carried_nonce(request), self._nonce
        self._nonce = _nonce(response) or held
        told = oauth_error(response)
        error = told.error if told else ""
        if response.status < 400 or (response.status == 400 and told is None):
            self._refusals = 0
        if told is None and (response.status != 401 or error_code(response) == _NO_FEATURE):
            return False
        if token is None or request.headers.get("Authorization") != token.authorization:
            return response.status in (400, 401, 403)  # a new attempt would carry another token
        if error == "use_dpop_nonce" and token.scheme == "DPoP":
            return carried != held or (self._nonce != carried and self._may_retry())
        retry = response.status == 401
        if error == "invalid_dpop_proof":
            self._nonce = _nonce(response)
            if not self._adopt_their_clock(response, now):
                self._ahead = timedelta()  # if theirs was in use, then it was not the clock
            retry = True
        elif told is not None and _wants_proof(told) and token.scheme == "Bearer" and self._dpop is None:
            self._proof_key = SigningKey.generate()
            self._token = None
            retry = True
        elif response.status in (401, 403):
            self._token = None  # also for a missing scope: only a new token has what was granted since
        return retry and self._may_retry()

    def _may_retry(self) -> bool:
        self._refusals += 1
        return self._refusals <= _MAX_REFUSALS


def _wants_proof(told: OAuthError) -> bool:
    return told.scheme == "DPoP" or told.error == "use_dpop_nonce" or "DPoP" in told.description


def _parse(response: Response, left: float, asked: frozenset[str]) -> Token | None:
    """Read the answer of the token endpoint (RFC 6749 section 5.1); `None` if it holds no token that can be used."""
    body = json_of(response)
    if not isinstance(body, dict):
        return None
    text, kind, scope = (body.get(name) for name in ("access_token", "token_type", "scope"))
    scheme = {"bearer": "Bearer", "dpop": "DPoP"}.get(str(kind).lower())
    life = _seconds(body.get("expires_in", _DEFAULT_LIFETIME))
    if not isinstance(text, str) or not _is_token(text) or scheme is None or life <= 0:
        return None
    scopes = frozenset(scope.split()) if isinstance(scope, str) else asked  # absent means: as asked
    return Token(text, scheme, left + life - min(_RENEW_BEFORE, life / 5), left + life - min(5.0, life / 10), scopes)


def _is_token(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


def _seconds(value: object) -> float:
    try:
        seconds = float(value) if isinstance(value, int | float | str) else 0.0
    except (ValueError, OverflowError):
        return 0.0
    return min(seconds, _MAX_LIFETIME) if math.isfinite(seconds) else 0.0


def _nonce(response: Response) -> str | None:
    nonce = response.headers.get("DPoP-Nonce", "")
    return nonce if _is_token(nonce) and len(nonce) <= _MAX_NONCE else None


def _carried_nonce(request: Request) -> str | None:
    """Read the nonce back from the proof that *request* carries."""
    payload = request.headers.get("DPoP", "..").split(".")[1]
    claims = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)) or b"{}")
    nonce: str | None = claims.get("nonce")
    return nonce


def _wait(response: Response) -> float | None:
    """Return how long the server says to wait: its reset by its own clock, and one second for the fraction."""
    waits = [budget.resets_after for budget in budgets(response.headers) if not budget.is_concurrency()]
    known = [wait for wait in waits if wait is not None]
    return min(max(known) + 1.0, _MAX_WAIT) if known else None
