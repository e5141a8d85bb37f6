"""
What an answer that is not a success says: Okta's own errors, and OAuth's. Pure.

Source: Okta's error code list (read 2026-08-21), below [ERRORS]; RFC 6749 section 5.2; RFC 6750 section 3.
"""

import re
from contextlib import suppress

import cattrs
from attrs import field, frozen
from cattrs.gen import make_dict_structure_fn, override

from .http import Response, json_of
from .redaction import plain

_MAX_CAUSES = 100  # that are read of one error; a batch of 20 events seldom has more, and each costs time
_MAX_CHALLENGES = 8  # that are read of one answer
_CUT_ERROR = re.compile(rb'\s*\{\s*"errorCode"\s*:\s*"(E\d{7})"')  # as Okta's errors begin, if the rest is missing


@frozen
class ErrorCause:
    """One of Okta's reasons; some APIs add where it lies."""

    error_summary: str = ""
    location: str = ""


@frozen
class ErrorBody:
    """Okta's error object; only `error_code` is meant for programs [ERRORS]."""

    error_code: str
    error_summary: str = ""
    error_causes: list[ErrorCause] = field(factory=list)


def okta_error(response: Response) -> ErrorBody | None:
    """Return the error in Okta's shape that *response* holds, if it holds one."""
    error = json_of(response)
    if isinstance(error, dict):
        with suppress(cattrs.BaseValidationError):
            return _converter.structure(error, ErrorBody)
    begun = _CUT_ERROR.match(response.body)
    return ErrorBody(begun[1].decode()) if begun else None


def describe(response: Response) -> str:
    """Return what an answer that is not a success says, in one bounded line."""
    return describe_error(response, okta_error(response))


def error_code(response: Response) -> str | None:
    """Return Okta's error code, if the answer is an error in Okta's shape."""
    error = okta_error(response)
    return error.error_code if error else None


def describe_error(response: Response, error: ErrorBody | None) -> str:
    """Return one bounded line: the server's own words where it has any that are not a page for people."""
    if error is not None:
        causes = "; ".join(cause.error_summary for cause in error.error_causes if cause.error_summary)
        return plain(": ".join(filter(None, (error.error_summary, causes))) or "no reason given")
    if oauth := oauth_error(response):
        needed = f"(needs {oauth.scope})" if oauth.error == "insufficient_scope" and oauth.scope else ""
        return plain(" ".join(filter(None, [f"HTTP {response.status}", oauth.error, oauth.description, needed])))
    kind = response.headers.get("Content-Type", "no content type")
    return plain(f"HTTP {response.status} ({kind}, {len(response.body)} bytes), not an answer of Okta's")


@frozen
class OAuthError:
    """
    What OAuth's parts of Okta say, in a body (RFC 6749 section 5.2) or in WWW-Authenticate (RFC 6750 section 3).

    Attributes:
        error: Such as `invalid_token`; empty if there is a challenge without one.
        description: For people.
        scheme: `Bearer` or `DPoP` of the challenge; empty for a body.
        scope: What would be needed.
    """

    error: str
    description: str = ""
    scheme: str = ""
    scope: str = ""


def oauth_error(response: Response) -> OAuthError | None:
    """Return the OAuth error of an answer that is not a success; of several, the one that can be answered at once."""
    if response.status < 400:
        return None
    found = [_challenge(text) for text in response.headers.getall("WWW-Authenticate", [])[:_MAX_CHALLENGES]]
    body = json_of(response)
    if isinstance(body, dict) and isinstance(body.get("error"), str):
        found.append(OAuthError(body["error"], str(body.get("error_description") or "")))
    found.sort(key=lambda oauth: (oauth.error != "use_dpop_nonce", not oauth.error))
    return found[0] if found else None


_PARAMETER = re.compile(r"""[\s,](error|error_description|scope)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))""")


def _challenge(text: str) -> OAuthError:
    text = text[:8192]
    scheme = next((name for name in ("DPoP", "Bearer") if text.lower().startswith(name.lower())), "")
    said = {name: re.sub(r"\\(.)", r"\1", quoted) or bare for name, quoted, bare in _PARAMETER.findall(text)}
    return OAuthError(said.get("error", ""), said.get("error_description", ""), scheme, said.get("scope", ""))


def _text(value: object, _: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("expected a text")
    return value


def _text_if_any(value: object, _: object) -> str:
    return value if isinstance(value, str) else ""


def _make_converter() -> cattrs.Converter:
    """
    Map the models' names to the wire's camelCase.

    Without an `errorCode` that is a text, it is no error of Okta's. The rest is for people, and must not hide the
    code by being odd: a refused batch would be sent again for ever.
    """
    converter = cattrs.Converter()
    converter.register_structure_hook(str, _text)
    converter.register_structure_hook(
        ErrorCause,
        make_dict_structure_fn(
            ErrorCause,
            converter,
            error_summary=override(rename="errorSummary", struct_hook=_text_if_any),
            location=override(struct_hook=_text_if_any),
        ),
    )

    def causes(value: object, _: object) -> list[ErrorCause]:
        listed = value[:_MAX_CAUSES] if isinstance(value, list) else []
        return [converter.structure(cause, ErrorCause) for cause in listed if isinstance(cause, dict)]

    converter.register_structure_hook(
        ErrorBody,
        make_dict_structure_fn(
            ErrorBody,
            converter,
            error_code=override(rename="errorCode"),
            error_summary=override(rename="errorSummary", struct_hook=_text_if_any),
            error_causes=override(rename="errorCauses", struct_hook=causes),
        ),
    )
    return converter


_converter = _make_converter()
