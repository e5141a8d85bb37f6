"""
Okta's Risk Events API on the wire: signals to bytes, and an answer to what it means.

Pure: no clock, no I/O. All vendor constants live here. Sources, read 2026-08-21: [SPEC] the Okta Management OpenAPI
2025.08.0, sendRiskEvents; [REF] Okta's hand-written Risk Events reference, removed 2023-02-24; [LIMITS] Okta's rate
limit pages; [ERRORS] Okta's error code list.
"""

import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import zip_longest
from typing import TypeAlias

import cattrs
from attrs import field, frozen
from cattrs.gen import make_dict_structure_fn, override
from multidict import CIMultiDict, CIMultiDictProxy

from ..signals import RiskLevel, RiskSignal, format_time

PATH = "/api/v1/risk/events/ip"  # [SPEC]
MAX_EVENTS = 20  # a request; prose of [SPEC] and [REF], not in the schema
MAX_SUBJECTS = 50  # an event; [REF] only
MAX_ANSWER = 64 * 1024  # bytes read of an answer; Okta's have a few hundred
_NOT_THE_BATCH = ("E0000019", "E0000021")  # 400 for Accept and Content-Type [ERRORS]: no split would help
_MAX_TEXT = 300  # characters kept of what a server says, so that it cannot flood a log

Headers: TypeAlias = CIMultiDict[str] | CIMultiDictProxy[str]


@frozen
class Request:
    """
    One HTTP request; the headers may hold credentials and are not shown.

    Attributes:
        signals: How many it carries; 0 if it is for something else.
    """

    method: str
    url: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    signals: int = field(default=0, repr=False)


@frozen
class Response:
    """One HTTP answer; the body has at most `MAX_ANSWER` bytes."""

    status: int
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)


# -- signals to bytes

# One encoder for all, as `json.dumps` makes one a call; what is built here has no circles to look for.
_to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_LEVEL_NAMES = {level: level.value for level in RiskLevel}  # an enum looks its value up in Python code


def encode(events: Iterable[Sequence[RiskSignal]]) -> bytes:
    """Write the payload: a bare JSON array of RiskEvent; the signals of one event share timestamp and expiry."""
    return _to_json([_risk_event(signals) for signals in events]).encode()


def _risk_event(signals: Sequence[RiskSignal]) -> dict[str, object]:
    event: dict[str, object] = {
        "timestamp": format_time(signals[0].timestamp),
        "subjects": [_risk_event_subject(signal) for signal in signals],
    }
    if signals[0].expires_at is not None:
        event["expiresAt"] = format_time(signals[0].expires_at)
    return event


def _risk_event_subject(signal: RiskSignal) -> dict[str, str]:
    subject = {"ip": signal.ip, "riskLevel": _LEVEL_NAMES[signal.risk_level]}
    if signal.message is not None:
        subject["message"] = signal.message
    return subject


# -- an answer to what it means


@frozen
class Taken:
    """202: Okta has every signal of the batch."""

    request_id: str | None


@frozen
class Refused:
    """
    400 or 413 with a reason that lies in the batch: nothing was taken [SPEC].

    Attributes:
        named: `(event, subject)` indices that the error's causes point at; the subject may be unknown.
    """

    status: int
    code: str | None
    reason: str
    request_id: str | None
    named: tuple[tuple[int, int | None], ...] = ()


@frozen
class RateLimited:
    """429 because the minute's requests are used up; nothing was taken. When it ends, `Budget` says."""


@frozen
class TooConcurrent:
    """429 because too many requests of the org are in flight; a slot may be free at once [LIMITS]."""


@frozen
class Denied:
    """The server will take nothing until somebody mends something: credentials, grants, the URL, the feature."""

    reason: str


@frozen
class Unavailable:
    """A failure that should pass. `may_have_arrived`: the signals may have been taken before it."""

    reason: str
    may_have_arrived: bool


Verdict: TypeAlias = Taken | Refused | RateLimited | TooConcurrent | Denied | Unavailable


def classify(response: Response) -> Verdict:
    """Return what *response* means for the batch that it answers. The only place that looks at a status."""
    status = response.status
    request_id = _request_id(response)
    if status == 202:
        return Taken(request_id)
    error = _error(response)
    reason = _describe(response, error)
    code = plain(error.error_code) if error else None
    challenged = "WWW-Authenticate" in response.headers  # a 400 too may speak of credentials only, with DPoP
    if status == 413 or (status in (400, 422) and code is not None and code not in _NOT_THE_BATCH and not challenged):
        return Refused(status, code, reason, request_id, _named(error) if error else ())
    if status == 429:
        concurrent = any(budget.is_concurrency() for budget in budgets(response.headers))
        return TooConcurrent() if concurrent else RateLimited()
    if code is not None:
        reason = plain(f"HTTP {status} {code}: {reason}")
    if status == 400 and code is None and oauth_error(response) is None:
        return Unavailable(reason, may_have_arrived=False)  # not Okta's error shape: something in between refused
    if 300 <= status < 500 and status != 408:
        return Denied(reason)
    # 2xx other than 202 is not Okta speaking [SPEC]; 408 and 5xx pass. A 503 of Okta's own is sent before any work is
    # done [ERRORS]; one of a proxy's tells nothing about what stood behind it.
    return Unavailable(reason, may_have_arrived=not (status == 408 or (status == 503 and code is not None)))


def _request_id(response: Response) -> str | None:
    request_id = response.headers.get("X-Okta-Request-Id")
    return None if request_id is None else plain(request_id)


@frozen
class Budget:
    """
    One set of rate-limit headers.

    Attributes:
        limit: Requests a window, for whoever the answer was for.
        remaining: Requests left in the server's window.
        resets_after: Seconds on the server's own clock until the window resets, at least 0; `None` if it cannot be
            told.
    """

    limit: int
    remaining: int
    resets_after: float | None

    def is_concurrency(self) -> bool:
        """Tell the concurrency limit, whose reset time means nothing, from the rate limit [LIMITS]."""
        return self.limit == 0 and self.remaining == 0


def budgets(headers: Headers) -> list[Budget]:
    """
    Read the `X-Rate-Limit-*` headers; none or an unreadable set gives nothing.

    Okta has been seen to send two sets in one answer (okta-sdk-java issue 259), so all are returned; a proxy may have
    joined them with commas.
    """
    found = []
    for limit, remaining, reset in zip_longest(*(_values(headers, name) for name in _BUDGET), fillvalue=""):
        if _is_count(limit) and _is_count(remaining):
            found.append(Budget(int(limit), int(remaining), _resets_after(reset, headers.get("Date"))))
    return found


_BUDGET = ("X-Rate-Limit-Limit", "X-Rate-Limit-Remaining", "X-Rate-Limit-Reset")


def _values(headers: Headers, name: str) -> list[str]:
    return [value.strip() for line in headers.getall(name, []) for value in line.split(",")]


def _is_count(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}", text) is not None


def _resets_after(reset: str, date: str | None) -> float | None:
    """Subtract the answer's own `Date`, so that a wrong clock on either side does not matter [LIMITS]."""
    if re.fullmatch(r"[0-9]{1,12}", reset) is None:
        return None
    try:
        now = parsedate_to_datetime(date or "")
        if now.tzinfo is None:  # it named no zone; HTTP knows GMT only
            now = now.replace(tzinfo=UTC)
        return max(0.0, int(reset) - now.timestamp())
    except (ValueError, OverflowError):
        return None


def date_of(headers: Headers) -> datetime | None:
    """Return the server's clock as its answer shows it."""
    try:
        date = parsedate_to_datetime(headers.get("Date", ""))
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


# -- errors


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


def _error(response: Response) -> ErrorBody | None:
    try:
        error = json.loads(response.body)
        return _converter.structure(error, ErrorBody) if isinstance(error, dict) else None
    except (ValueError, RecursionError, cattrs.BaseValidationError):
        return None


def describe(response: Response) -> str:
    """Return what an answer that is not a success says, in one bounded line."""
    return _describe(response, _error(response))


def error_code(response: Response) -> str | None:
    """Return Okta's error code, if the answer is an error in Okta's shape."""
    error = _error(response)
    return error.error_code if error else None


def _describe(response: Response, error: ErrorBody | None) -> str:
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
    found = [_challenge(text) for text in response.headers.getall("WWW-Authenticate", [])]
    try:
        body = json.loads(response.body)
    except (ValueError, RecursionError):
        body = None
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


def plain(text: str) -> str:
    """Return *text* as one printable line of bounded length: a server's words must not forge or flood a log."""
    line = "".join(c if c.isprintable() else " " for c in text[: _MAX_TEXT + 1])
    return line if len(line) <= _MAX_TEXT else f"{line[:_MAX_TEXT]}…"


_INDEX = re.compile(r"\[(\d{1,3})\](?:\.?subjects\[(\d{1,3})\])?")


def _named(error: ErrorBody) -> tuple[tuple[int, int | None], ...]:
    """
    Return the indices that the causes name, as in `[3].subjects[0].ip: …`.

    The wording of causes is not documented for this API, so an index is a hint: the sender probes what it names.
    """
    places = (_INDEX.search(f"{cause.location} {cause.error_summary}") for cause in error.error_causes)
    return tuple((int(m[1]), None if m[2] is None else int(m[2])) for m in places if m)


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
        listed = value if isinstance(value, list) else []
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
