"""
Proving to Okta who sends.

No I/O: an auth object turns a request into one that carries its credentials.
"""

from attrs import evolve, field, frozen

from .errors import AuthError
from .wire import Request

_TELLING = 3  # so few characters of a token are no secret, and may well be the end of a word


@frozen
class ApiToken:
    """
    An Okta API token, sent as `Authorization: SSWS <token>`.

    It has the rights of the admin who created it, dies with that user, and expires after 30 days without use.
    Source: Okta, "Create an API token" and "Core Okta API" (read 2026-08-21).

    Raises:
        AuthError: The token is empty, still a placeholder, or has characters that no header can carry.
    """

    _token: str = field(repr=False)

    def __attrs_post_init__(self) -> None:
        token = self._token
        if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable() or " " in token:
            raise AuthError("the API token must be non-empty printable ASCII without spaces")
        if "{" in token:
            raise AuthError("the API token is still a placeholder in braces")

    def sign(self, request: Request) -> Request:
        """Return *request* with credentials."""
        return evolve(request, headers={**request.headers, "Authorization": f"SSWS {self._token}"})

    def redact(self, text: str) -> str:
        """Return *text* without the token, in case a server echoes it; also if the end of *text* was cut within it."""
        text = text.replace(self._token, "[redacted]")
        kept = text.removesuffix("…")
        for length in range(min(len(self._token), len(kept)), _TELLING, -1):
            if kept.endswith(self._token[:length]):
                return f"{kept[:-length]}[redacted]"
        return text
