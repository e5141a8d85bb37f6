"""
What is found of an org and its credentials, in plain words: what is in order, and what somebody must fix. Pure.

Source: Okta's error code list; Okta's release notes 2025.04.0 of 2 April 2025 for the end of the API (read 2026-08-21).
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, TypeAlias

from attrs import frozen

from ..errors import AuthError, RequestFailed
from .error_bodies import describe, error_code
from .http import Response, date_of
from .providers import NO_CLIENT, READ_SCOPE, RiskProvider
from .rate_limits import Budget, budgets
from .redaction import plain
from .verdicts import GONE, AccessDenied, BatchAccepted, BatchRefused, RateLimited, TooConcurrent, classify

_CLOCK_TOLERANCE = 5.0  # seconds; `Date` has whole ones, and an answer takes its time
_NO_FEATURE = "E0000015"
_FORBIDDEN = "E0000006"  # a role is missing, or what the role allows
_ORG_LIMIT = 30  # requests a minute that an org has; okta-management-openapi-spec 2025.08.0

State: TypeAlias = Literal["ok", "mend", "open"]


@frozen
class Finding:
    """
    What is found of one thing.

    Attributes:
        state: `ok`; `mend`, if somebody must do something; `open`, if it cannot be told.
        subject: What was looked at, in one word.
        text: What was found, and what to do.
    """

    state: State
    subject: str
    text: str


def unreached(reason: str, proxy: str | None = None) -> Finding:
    """Judge a request that was not answered for this *reason*; *proxy* is the URL of the one in use."""
    words = _PROXY_SILENCES if proxy else _SILENCES
    last = "the proxy {proxy} ended the connection; does it let requests to the org through?" if proxy else _NOBODY
    found = next((text for sign, text in words.items() if sign in reason), last)
    return Finding("mend", "reach", f"{found.replace('{proxy}', proxy or '')} ({plain(reason)})")


_NOBODY = "nobody answers there; is it the right host, and may this machine reach it?"
_UNTRUSTED = "the certificate is not trusted; if a proxy of yours opens TLS, give its CA in SSL_CERT_FILE"
_SILENCES = {
    "Certificate": _UNTRUSTED,
    "SSL": "nobody speaks TLS there; is the port right?",
    "DNS": "the name is not known; is it spelt right, and does this machine resolve names? If it reaches the web only "
    "through a proxy, name that in HTTPS_PROXY",
    "Timeout": "no connection came about in time; does a firewall or proxy stand in between?",
    "no answer": "there was no answer in time; does a firewall or proxy stand in between?",
}
_PROXY_SILENCES = {
    "HTTP 407": "the proxy wants other credentials; put them into HTTPS_PROXY, as http://user:password@host:port",
    "the proxy refuses": "the proxy {proxy} does not let requests to the org through; ask who runs it",
    "Certificate": _UNTRUSTED,
    "SSL": "nobody speaks TLS behind the proxy {proxy}; is the port of the org right?",
    "DNS": "the proxy {proxy} does not answer; is HTTPS_PROXY right?",
    "ProxyConnection": "the proxy {proxy} does not answer; is HTTPS_PROXY right?",
    "Timeout": "the proxy {proxy} does not answer; is HTTPS_PROXY right?",
    "no answer": "there was no answer through the proxy {proxy} in time",
}


def endpoint(response: Response) -> Finding:
    """Judge how the risk events endpoint refuses a GET without credentials."""
    code, said = error_code(response), describe(response)
    is_okta = "X-Okta-Request-Id" in response.headers
    if 300 <= response.status < 400:
        return Finding("mend", "endpoint", f"the org redirects (HTTP {response.status}); use the URL that it leads to")
    if response.status in GONE:
        doubt = "" if is_okta else "; or this is no org of Okta's, for the answer does not look like Okta"
        return Finding("mend", "endpoint", f"{_GONE_WORDS}{doubt} (HTTP {response.status} {code}: {said})")
    if not is_okta:
        return Finding("mend", "endpoint", f"this does not look like Okta: {said}")
    if code == _NO_FEATURE:
        return Finding("mend", "endpoint", f"the org has not the feature; ask Okta's support ({code}: {said})")
    if response.status >= 500:
        return Finding("mend", "endpoint", f"Okta fails at the moment; try again later ({said})")
    return Finding("ok", "endpoint", "Okta answers, and the Risk Events API is there")


_GONE_WORDS = (
    "the Risk Events API is not there any more; Okta has deprecated it (2 April 2025), see the README for its "
    "successor. `riskbatch queue export` keeps what waits in a store"
)


def clock(response: Response, now: datetime) -> Finding:
    """Compare our clock, which showed *now* when *response* came, with the server's."""
    date = date_of(response.headers)
    if date is None:
        return Finding("open", "clock", "the answer has no Date to compare with")
    ahead = (now - date).total_seconds()
    if abs(ahead) <= _CLOCK_TOLERANCE:
        return Finding("ok", "clock", f"within {_CLOCK_TOLERANCE:.0f} s of Okta's")
    which = "ahead of" if ahead > 0 else "behind"
    return Finding(
        "mend",
        "clock",
        f"yours is {abs(ahead):.0f} s {which} Okta's; set it by NTP, or signals carry wrong times and expire wrongly",
    )


def ungranted(reason: str, scope: str) -> Finding:
    """Judge a token endpoint that gives none for *scope*."""
    for sign, words in {
        "consent_required": f"grant {scope} to the app under Okta API Scopes",
        "invalid_scope": f"grant {scope} to the app under Okta API Scopes; the org may not know it any more",
        "invalid_client": "client id, key or key id are not those of the app",
        "invalid_dpop": "the app demands DPoP; leave OKTA_CLIENT_DPOPENABLED unset",
        "demands DPoP": "the app demands DPoP; leave OKTA_CLIENT_DPOPENABLED unset",
    }.items():
        if sign in reason:
            return Finding("mend", "credentials", f"{words} ({reason})")
    return Finding("mend", "credentials", reason)


def token_of(found: Sequence[RiskProvider] | AuthError | RequestFailed) -> Finding:
    """Judge an API token by what listing the providers with it came to."""
    if isinstance(found, RequestFailed) and found.status == 401:
        return Finding(
            "mend", "credentials", f"OKTA_CLIENT_TOKEN is wrong, expired or revoked; create a new one ({found})"
        )
    if isinstance(found, RequestFailed) and found.status is None:
        return Finding("mend", "credentials", f"no answer: {found}")
    if isinstance(found, RequestFailed) and found.status in GONE:
        return Finding("open", "credentials", f"nothing is there to try the API token with ({found})")
    return Finding("ok", "credentials", "the API token is known")


def registration(found: Sequence[RiskProvider] | AuthError | RequestFailed, client_id: str | None) -> Finding:
    """Judge whether the sender is a risk provider, and one whose events count; an API token has no client id."""
    if isinstance(found, AuthError):
        words = f"they cannot be listed; grant {READ_SCOPE} to the app, so that this can be checked"
        return Finding("mend", "provider", f"{words} ({found})")
    if isinstance(found, RequestFailed):
        if found.code == _FORBIDDEN:
            return Finding("mend", "provider", f"assign an admin role to the app or to the token's user ({found})")
        return Finding("mend", "provider", f"they cannot be listed: {found}")
    own = [each for each in found if each.client_id == client_id or (client_id is None and each.client_id != NO_CLIENT)]
    command = "riskbatch providers update"
    if not own:
        who = f"with the client id {client_id}" if client_id else "that belongs to a sender"
        take_over = f"{command} Default --client-id {client_id or 'ID'} --action enforce_and_log"
        return Finding("mend", "provider", f"there is no risk provider {who}; `{take_over}` makes one")
    acting = [each for each in own if each.action == "enforce_and_log"]
    if not acting:
        first = own[0]
        mend = f"{command} {first.id or first.name} --action enforce_and_log"
        return Finding("mend", "provider", f"{first.name!r} is {first.action}, so its events change nothing; `{mend}`")
    return Finding("ok", "provider", f"{acting[0].name!r} is {acting[0].action}")


def sending(response: Response, said: str) -> Finding:
    """Judge the answer to a signal that was really sent; *said* are its words without secrets."""
    match classify(response):
        case BatchAccepted(request_id):
            return Finding("ok", "sending", f"Okta has taken one LOW signal (request {request_id})")
        case RateLimited() | TooConcurrent():
            return Finding("mend", "sending", "the org's budget is used up at this moment; see who else sends with it")
        case BatchRefused() | AccessDenied():
            hint = "; is the sender a risk provider, and has it a role?" if error_code(response) == _FORBIDDEN else ""
            return Finding("mend", "sending", f"Okta refuses it: {said}{hint}")
        case _:
            return Finding("mend", "sending", f"Okta fails at the moment; try again later ({said})")


def budget(response: Response) -> Finding:
    """Judge the rate-limit headers of an answer to a risk event."""
    found = [each for each in budgets(response.headers) if not each.is_concurrency()]
    if not found:
        return Finding("open", "budget", "the answer has no rate-limit headers")
    least: Budget = min(found, key=lambda each: (each.limit, each.remaining))
    share = f"{least.limit} requests a window, of which {least.remaining} are left"
    if least.remaining == 0:
        wait = "" if least.resets_after is None else f" for {least.resets_after:.0f} s"
        return Finding("mend", "budget", f"{share}{wait}; give each that sends with it a share (limit=RateLimit(...))")
    if least.limit < _ORG_LIMIT:
        share += f"; less than the org's {_ORG_LIMIT}, and the client keeps to it by itself"
    return Finding("ok", "budget", share)
