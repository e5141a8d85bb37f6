"""
How the org refuses a request: in Okta's error shape, or in OAuth's.

Source: developer.okta.com/docs/reference/error-codes (read 2026-08-21), the texts word for word.
"""

import secrets
from collections.abc import Iterable

from .messages import EmulatedResponse, Headers, json_response

GONE = {"E0000008": 404, "E0000026": 404, "E0000215": 410}
"""The codes with which an endpoint that was removed may answer, and their statuses."""

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


class Refused(Exception):  # noqa: N818 - the request is refused; nothing here is in error
    """Ends the checks of a request: an error in Okta's shape, or an empty body if there is no code."""

    def __init__(self, status: int, code: str = "", *, causes: Iterable[str] = (), headers: Headers = ()) -> None:
        super().__init__(status, code)
        self.status = status
        self.code = code
        self.causes: tuple[str, ...] = tuple(causes)
        self.headers = headers

    def response(self, *, name_causes: bool = True) -> EmulatedResponse:
        """Return the answer: Okta's five keys, or an empty body."""
        if not self.code:
            return EmulatedResponse(self.status, self.headers)
        error = {
            "errorCode": self.code,
            "errorSummary": _SUMMARIES.get(self.code, self.code),
            "errorLink": self.code,
            "errorId": f"oae{secrets.token_urlsafe(16)}",
            "errorCauses": [{"errorSummary": cause} for cause in self.causes if name_causes],
        }
        return json_response(self.status, error, self.headers)


class Denied(Exception):  # noqa: N818 - the request is denied; nothing here is in error
    """OAuth refuses a request: in OAuth's shape with *error* and *description*, or in Okta's shape with *code*."""

    def __init__(
        self, status: int, error: str = "", description: str = "", *, code: str = "", headers: Headers = ()
    ) -> None:
        super().__init__(status, error or code)
        self.status = status
        self.error = error
        self.description = description
        self.code = code
        self.headers = headers

    def response(self) -> EmulatedResponse:
        """Return the answer of the token endpoint in OAuth's shape."""
        error = {"error": self.error, "error_description": self.description}
        return json_response(self.status, error, self.headers)
