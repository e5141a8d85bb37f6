"""
Proving to Okta who sends: an API token, or a service app with a private key.

Both are frozen and may be shared by several clients; what one client holds at one org is in `credentials.py`.
"""

import math
import os
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from attrs import evolve, field, frozen

from ..errors import AuthError
from .credentials import RISK_EVENTS_SCOPE, Credentials, Now, TokenFlow
from .http import Request, Response
from .redaction import REDACTED, redact

if TYPE_CHECKING:
    from .keys import SigningKey

_MOST_SHOWN = 3  # characters at the end of a cut text that may be those of any word, and tell nothing of a token


@runtime_checkable
class Auth(Protocol):
    """What a client is given: who sends."""

    def for_org(self, org: str) -> Credentials:
        """Return new credentials for the org at this URL, which has no trailing slash."""


@frozen(init=False)
class ApiToken:
    """
    An Okta API token, sent as `Authorization: SSWS <token>`.

    It has the rights of the admin who created it, dies with that user, and expires after 30 days without use.
    Source: Okta, "Create an API token" and "Core Okta API" (read 2026-08-21).

    Raises:
        AuthError: The token is empty, still a placeholder, or has characters that no header can carry.
    """

    _token: str = field(repr=False)

    def __init__(self, token: str) -> None:
        problem = _problem(token)
        if problem is not None:
            del token  # reports of crashes like to show the variables of every frame
            raise AuthError(f"the API token {problem}")
        self.__attrs_init__(token)

    def for_org(self, org: str) -> "ApiToken":
        """Return itself: the token is all there is, and it never changes."""
        return self

    def usable(self, now: float) -> bool:
        """Return True: only the server knows better."""
        return True

    def renew_at(self) -> float:
        """Return infinity: there is nothing to renew."""
        return math.inf

    def renew(self, now: Now) -> TokenFlow:
        """Yield nothing."""
        yield from ()

    def sign(self, request: Request, now: Now) -> Request:
        """Return *request* with credentials."""
        return evolve(request, headers={**request.headers, "Authorization": f"SSWS {self._token}"})

    def learn(self, request: Request, response: Response, now: Now) -> bool:
        """Return False: a token that was refused will be refused again."""
        return False

    def redact(self, text: str) -> str:
        """Return *text* without the token, in case a server echoes it; also if the end of *text* was cut within it."""
        kept = text.removesuffix("…")
        for length in range(min(len(self._token), len(kept)), _MOST_SHOWN, -1):
            if kept.endswith(self._token[:length]):
                text = f"{kept[:-length]}{REDACTED}"
                break
        return redact(text, [self._token])


@frozen(eq=False, init=False, repr=False)
class ServiceApp:
    """
    An OAuth 2.0 service app of the org: client credentials with a private key, with DPoP where the org wants it.

    Source: Okta, "Implement OAuth for Okta with a service app" and "Configure OAuth 2.0 Demonstrating
    Proof-of-Possession" (read 2026-08-21); RFC 7523, RFC 9449.

    Args:
        client_id: Of the app, such as `0oa…`.
        private_key: The key whose public half the app has: PEM text (PKCS#1, PKCS#8 or SEC 1, also with `\\n` written
            out as in environment variables), a JWK as a mapping or JSON text, or the path of a file with either. RSA
            from 2048 bits, or EC on P-256, P-384 or P-521. It is read once, here.
        key_id: The `kid` under which the app knows the key, if the JWK does not say it. An app with several keys needs
            it.
        scopes: What to ask for; each must be granted to the app. Sending needs okta.riskEvents.manage.
        dpop: Whether tokens are bound to a key of this process (RFC 9449): `None` learns it from the org, `True`
            insists on it, `False` never does it. New apps demand it by default.

    Raises:
        AuthError: An argument cannot work, or the extra is missing. Nothing of the key is shown.
    """

    client_id: str
    private_key: "SigningKey"
    key_id: str | None = None
    scopes: tuple[str, ...] = (RISK_EVENTS_SCOPE,)
    dpop: bool | None = None

    def __init__(
        self,
        client_id: str,
        private_key: str | bytes | os.PathLike[str] | Mapping[str, Any],
        *,
        key_id: str | None = None,
        scopes: Iterable[str] = (RISK_EVENTS_SCOPE,),
        dpop: bool | None = None,
    ) -> None:
        key = _load(private_key)
        del private_key  # reports of crashes like to show the variables of every frame
        if isinstance(key, AuthError):
            raise key.with_traceback(None)
        for name, value in (("client_id", client_id), ("key_id", "-" if key_id is None else key_id)):
            problem = _problem(value)
            if problem is not None:
                raise AuthError(f"{name} {problem}")
        if dpop not in (None, True, False):
            raise AuthError(f"dpop is {dpop!r}; it must be None, True or False")
        self.__attrs_init__(client_id, key, key_id or key.key_id, _scopes(scopes), dpop)

    def __repr__(self) -> str:
        # Also of one that is not finished, since reports of crashes show it.
        shown = (f"{name}={getattr(self, name, None)!r}" for name in ("client_id", "key_id", "scopes", "dpop"))
        return f"ServiceApp({', '.join(shown)})"

    def for_org(self, org: str) -> Credentials:
        """Return credentials for *org* that hold no token yet."""
        from .oauth import AppCredentials  # noqa: PLC0415 - needs the extra

        return AppCredentials(
            org,
            client_id=self.client_id,
            private_key=self.private_key,
            key_id=self.key_id,
            scopes=self.scopes,
            dpop=self.dpop,
        )


def _load(private_key: object) -> "SigningKey | AuthError":
    """Return the key or an error. The caller raises it outside of handlers, so that its context shows no key."""
    try:
        from . import keys  # noqa: PLC0415 - needs the extra
    except ModuleNotFoundError:
        return AuthError("a ServiceApp needs a crypto library: in a checkout of riskbatch, pip install '.[oauth]'")
    try:
        return keys.load(private_key)
    except AuthError as error:
        return error


def _problem(value: object) -> str | None:
    """Return what is wrong with a text that is to be part of a header or a claim, without showing it."""
    if not isinstance(value, str) or not value or not value.isascii() or not value.isprintable() or " " in value:
        return "must be non-empty printable ASCII without spaces"
    return "is still a placeholder in braces" if "{" in value else None


def _scopes(given: Iterable[str]) -> tuple[str, ...]:
    """Return the scopes, each once; a text may hold several, with commas or spaces between, as in the SDKs."""
    texts = [given] if isinstance(given, str) else list(given)
    for text in texts:
        if not isinstance(text, str):
            raise AuthError(f"scopes has a {type(text).__name__}; each scope must be text, as {RISK_EVENTS_SCOPE}")
    scopes = tuple(dict.fromkeys(scope for text in texts for scope in re.split(r"[\s,]+", text) if scope))
    if not scopes:
        raise AuthError(f"scopes is empty; sending needs {RISK_EVENTS_SCOPE}")
    for scope in scopes:
        if re.fullmatch(r"[!#-\[\]-~]+", scope) is None:  # RFC 6749 section 3.3
            raise AuthError(f"scopes has {scope[:100]!r}, which is not a scope; it must be like {RISK_EVENTS_SCOPE}")
    return scopes
