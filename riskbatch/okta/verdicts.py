"""
What an answer means for the batch that it answers. Pure.

Sources, read 2026-08-21: [SPEC] the Okta Management OpenAPI 2025.08.0, sendRiskEvents; [LIMITS] Okta's rate limit
pages; [ERRORS] Okta's error code list.
"""

import re
from typing import TypeAlias

from attrs import frozen

from .error_bodies import ErrorBody, describe_error, oauth_error, okta_error
from .http import Response, Unanswered
from .rate_limits import budgets
from .redaction import plain

_NOT_THE_BATCH = ("E0000019", "E0000021")  # 400 for Accept and Content-Type [ERRORS]: no split would help
GONE = (404, 410)  # on our own path: there is no such API. Which one Okta will use, no document says
_GONE_WORDS = (
    "there is no Risk Events API at this URL; Okta deprecated it in April 2025. `riskbatch doctor` looks what is left, "
    "and `riskbatch queue export` keeps what waits in a store"
)


@frozen
class BatchAccepted:
    """202: Okta has every signal of the batch."""

    request_id: str | None


@frozen
class BatchRefused:
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


def refusal_text(code: str | None, reason: str | None) -> str:
    """Return what the log says of a signal that was refused alone; *code* and *reason* are without secrets."""
    return f"Okta refused a signal: {code} {reason}"


@frozen
class RateLimited:
    """429 because the minute's requests are used up; nothing was taken. When it ends, `Budget` says."""


@frozen
class TooConcurrent:
    """429 because too many requests of the org are in flight; a slot may be free at once [LIMITS]."""


@frozen
class CredentialsRefused:
    """The server wants newer credentials than the request had: a token, a nonce. The next permit carries them."""


@frozen
class AccessDenied:
    """The server will take nothing until somebody mends something: credentials, grants, the URL, the feature."""

    reason: str


@frozen
class Unavailable:
    """A failure that should pass. `may_have_arrived`: the signals may have been taken before it."""

    reason: str
    may_have_arrived: bool


Verdict: TypeAlias = (
    BatchAccepted | BatchRefused | RateLimited | TooConcurrent | CredentialsRefused | AccessDenied | Unavailable
)


def classify(response: Response) -> Verdict:
    """Return what *response* means for the batch that it answers. The only place that looks at a status."""
    status, request_id = response.status, _request_id(response)
    if status == 202:
        return BatchAccepted(request_id)
    if status == 429:
        concurrent = any(budget.is_concurrency() for budget in budgets(response.headers))
        return TooConcurrent() if concurrent else RateLimited()
    error = okta_error(response)
    code, reason = plain(error.error_code) if error else None, describe_error(response, error)
    challenged = "WWW-Authenticate" in response.headers  # a 400 too may speak of credentials only, with DPoP
    if status == 413 or (status in (400, 422) and code is not None and code not in _NOT_THE_BATCH and not challenged):
        return BatchRefused(status, code, reason, request_id, _named(error) if error else ())
    if status == 400 and code is None and oauth_error(response) is None:
        return Unavailable(reason, may_have_arrived=False)  # not Okta's error shape: something in between refused
    return _failure(status, code, reason)


def _failure(status: int, code: str | None, reason: str) -> AccessDenied | Unavailable:
    """Return what *status* means where the batch is not to blame."""
    if status in GONE:
        reason = f"{_GONE_WORDS} ({reason})"
    if code is not None or status in GONE:
        reason = plain(f"HTTP {status}{'' if code is None else f' {code}'}: {reason}")
    if 300 <= status < 500 and status != 408:
        return AccessDenied(reason)
    # 2xx other than 202 is not Okta speaking [SPEC]; 408 and 5xx pass. A 503 of Okta's own is sent before any work is
    # done [ERRORS]; one of a proxy's tells nothing about what stood behind it.
    return Unavailable(reason, may_have_arrived=not (status == 408 or (status == 503 and code is not None)))


def verdict_on(lost: Unanswered) -> AccessDenied | Unavailable:
    """Return what it means for a batch that its request has no answer."""
    return AccessDenied(lost.reason) if lost.denied else Unavailable(lost.reason, lost.may_have_arrived)


def _request_id(response: Response) -> str | None:
    request_id = response.headers.get("X-Okta-Request-Id")
    return None if request_id is None else plain(request_id)


_INDEX = re.compile(r"\[(\d{1,3})\](?:\.?subjects\[(\d{1,3})\])?")


def _named(error: ErrorBody) -> tuple[tuple[int, int | None], ...]:
    """
    Return the indices that the causes name, as in `[3].subjects[0].ip: …`.

    The wording of causes is not documented for this API, so an index is a hint: the sender probes what it names.
    """
    places = (_INDEX.search(f"{cause.location} {cause.error_summary}") for cause in error.error_causes)
    return tuple((int(m[1]), None if m[2] is None else int(m[2])) for m in places if m)
