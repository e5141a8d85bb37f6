"""
`riskbatch doctor`: is everything in order for sending, and if not, what must be mended, in plain words.

It looks and changes nothing. No risk event is sent unless `--send` asks for one: that the endpoint is there shows in
how it refuses a GET, that the credentials are good in the list of risk providers, and the clock in any answer's `Date`.
What an org lets one know only with an event, above all the budget, is then left open.
"""

import argparse
import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias

from attrs import frozen

from ..errors import AuthError, RequestFailed, RiskbatchError
from ..limiter import RateLimit
from ..okta.auth import Auth, ServiceApp
from ..okta.credentials import RISK_EVENTS_SCOPE, Unauthenticated
from ..okta.environment import auth_from_env, check_org_url, org_url_from_env
from ..okta.error_bodies import describe, error_code
from ..okta.http import HEADERS, Request, Response, Transport, Unanswered, date_of
from ..okta.providers import MANAGE_SCOPE, NO_CLIENT, READ_SCOPE, RiskProvider, list_providers
from ..okta.rate_limits import Budget, budgets
from ..okta.redaction import plain
from ..okta.renewal import call, now_on, run_flow
from ..okta.risk_events import PATH, encode
from ..okta.transport import aiohttp_transport, open_session
from ..okta.verdicts import AccessDenied, BatchAccepted, BatchRefused, RateLimited, TooConcurrent, classify
from ..signals import RiskLevel, RiskSignal
from .terminal import NOT_ACCEPTED, counted, printable

_CLOCK_OFF = 5.0  # seconds; `Date` has whole ones, and an answer takes its time
_NO_FEATURE = "E0000015"  # Okta's error code list
_FORBIDDEN = "E0000006"  # the same; a role is missing, or what the role allows

State: TypeAlias = Literal["ok", "mend", "open"]


@frozen
class Finding:
    """
    What the doctor says of one thing.

    Attributes:
        state: `ok`; `mend`, if somebody must do something; `open`, if it cannot be told without sending.
        thing: What was looked at.
        words: What was found, and what to do.
    """

    state: State
    thing: str
    words: str

    def __str__(self) -> str:
        return f"{self.state:5} {self.thing:12} {printable(self.words, 600)}"


def doctor(options: argparse.Namespace) -> int:
    """Print what is found, line by line, and return 0 only if nothing must be mended."""
    return asyncio.run(_doctor(options))


async def _doctor(options: argparse.Namespace) -> int:
    faults = 0
    async with open_session() as session:
        async for finding in examine(aiohttp_transport(session, env_proxies=True), options.org_url, options.send):
            print(finding, flush=True)
            faults += finding.state == "mend"
    print("all is well" if not faults else f"{counted(faults, 'thing')} to mend")
    return NOT_ACCEPTED if faults else 0


async def examine(transport: Transport, org_url: str | None = None, send: str | None = None) -> AsyncIterator[Finding]:
    """
    Yield findings about the org and the credentials that the environment names; ends where going on is pointless.

    Args:
        transport: One request out, one answer in.
        org_url: Instead of OKTA_CLIENT_ORGURL.
        send: An address for which one LOW signal is really sent.
    """
    try:
        org = check_org_url(org_url or org_url_from_env())
        yield Finding("ok", "url", org)
    except RiskbatchError as error:
        yield Finding("mend", "url", str(error))
        return
    try:
        response = await transport(Request("GET", f"{org}{PATH}", HEADERS, b""))
    except Unanswered as lost:
        yield Finding("mend", "reach", unreached(lost.reason))
        return
    yield endpoint(response)
    yield clock(response, datetime.now(UTC))
    try:
        auth = auth_from_env()
    except RiskbatchError as error:
        yield Finding("mend", "credentials", str(error))
        return
    async for finding in _examine_rights(transport, org, auth):
        yield finding
    if send is None:
        yield Finding("open", "budget", "Okta tells it with risk events only; `--send IP` sends one and looks")
    else:
        async for finding in _send(transport, org, auth, send):
            yield finding


async def _examine_rights(transport: Transport, org: str, auth: Auth) -> AsyncIterator[Finding]:
    if isinstance(auth, ServiceApp):
        finding = await _ask_for_token(transport, org, auth)
        yield finding
        if finding.state == "mend":
            return
    found = await _list(transport, org, auth)
    if not isinstance(auth, ServiceApp):
        yield token_of(found)
        if isinstance(found, RequestFailed) and found.status == 401:
            return
    yield registration(found, auth.client_id if isinstance(auth, ServiceApp) else None)


async def _ask_for_token(transport: Transport, org: str, app: ServiceApp) -> Finding:
    if RISK_EVENTS_SCOPE not in app.scopes:
        return Finding("mend", "credentials", f"OKTA_CLIENT_SCOPES must have {RISK_EVENTS_SCOPE}")
    try:
        credentials = auth_from_env(RISK_EVENTS_SCOPE).for_org(org)
        await run_flow(credentials.renew(now_on(asyncio.get_running_loop())), transport)
    except Unauthenticated as refused:
        return Finding("mend", "credentials", ungranted(credentials.redact(refused.reason), RISK_EVENTS_SCOPE))
    return Finding("ok", "credentials", f"{app.client_id} gets an access token for {RISK_EVENTS_SCOPE}")


async def _list(transport: Transport, org: str, auth: Auth) -> list[RiskProvider] | AuthError | RequestFailed:
    """Return the org's providers, or why they cannot be listed; either of two scopes will do."""
    failure: AuthError | RequestFailed | None = None
    for scope in (READ_SCOPE, MANAGE_SCOPE) if isinstance(auth, ServiceApp) else (None,):
        try:
            return await list_providers(transport, auth_from_env(scope).for_org(org), org)
        except (AuthError, RequestFailed) as error:
            failure = failure or error
    assert failure is not None  # noqa: S101 - there is at least one scope
    return failure


async def _send(transport: Transport, org: str, auth: Auth, ip: str) -> AsyncIterator[Finding]:
    now = datetime.now(UTC)
    try:
        signal = RiskSignal(ip, RiskLevel.LOW, message="riskbatch doctor", expires_at=now + timedelta(minutes=5))
    except RiskbatchError as error:
        yield Finding("mend", "sending", str(error))
        return
    credentials = auth.for_org(org)
    try:
        response = await call(Request("POST", f"{org}{PATH}", {}, encode([[signal]]), 1), credentials, transport)
    except (Unauthenticated, Unanswered) as lost:
        yield Finding("mend", "sending", plain(credentials.redact(lost.reason)))
        return
    yield sending(response, credentials.redact(describe(response)))
    yield budget(response)


# -- what an answer says, in words


def unreached(reason: str) -> str:
    """Return what to do about a request that was not answered for this *reason*."""
    for sign, words in {
        "Certificate": "the certificate is not trusted; if a proxy of yours opens TLS, give its CA in SSL_CERT_FILE",
        "SSL": "nobody speaks TLS there; is the port right?",
        "DNS": "the name is not known; is it spelt right, and does this machine resolve names?",
        "Timeout": "no connection came about in time; does a firewall or proxy stand in between?",
        "no answer": "there was no answer in time; does a firewall or proxy stand in between?",
    }.items():
        if sign in reason:
            return f"{words} ({plain(reason)})"
    return f"nobody answers there; is it the right host, and may this machine reach it? ({plain(reason)})"


def endpoint(response: Response) -> Finding:
    """Judge how the risk events endpoint refuses a GET without credentials."""
    code, said = error_code(response), describe(response)
    if 300 <= response.status < 400:
        return Finding("mend", "endpoint", f"the org redirects (HTTP {response.status}); use the URL that it leads to")
    if "X-Okta-Request-Id" not in response.headers:
        return Finding("mend", "endpoint", f"this does not look like Okta: {said}")
    if response.status in (404, 410):
        gone = "the Risk Events API is not there any more; Okta has deprecated it, see the README for its successor"
        return Finding("mend", "endpoint", f"{gone} (HTTP {response.status} {code}: {said})")
    if code == _NO_FEATURE:
        return Finding("mend", "endpoint", f"the org has not the feature; ask Okta's support ({code}: {said})")
    if response.status >= 500:
        return Finding("mend", "endpoint", f"Okta fails at the moment; try again later ({said})")
    return Finding("ok", "endpoint", "Okta answers, and the Risk Events API is there")


def clock(response: Response, now: datetime) -> Finding:
    """Compare our clock, which showed *now* when *response* came, with the server's."""
    date = date_of(response.headers)
    if date is None:
        return Finding("open", "clock", "the answer has no Date to compare with")
    ahead = (now - date).total_seconds()
    if abs(ahead) <= _CLOCK_OFF:
        return Finding("ok", "clock", f"within {_CLOCK_OFF:.0f} s of Okta's")
    which = "ahead of" if ahead > 0 else "behind"
    return Finding(
        "mend",
        "clock",
        f"yours is {abs(ahead):.0f} s {which} Okta's; set it by NTP, or signals carry wrong times and expire wrongly",
    )


def ungranted(reason: str, scope: str) -> str:
    """Return what to do about a token endpoint that gives none for *scope*."""
    for sign, words in {
        "consent_required": f"grant {scope} to the app under Okta API Scopes",
        "invalid_scope": f"grant {scope} to the app under Okta API Scopes; the org may not know it any more",
        "invalid_client": "client id, key or key id are not those of the app",
        "invalid_dpop": "the app demands DPoP; leave OKTA_CLIENT_DPOPENABLED unset",
        "demands DPoP": "the app demands DPoP; leave OKTA_CLIENT_DPOPENABLED unset",
    }.items():
        if sign in reason:
            return f"{words} ({reason})"
    return reason


def token_of(found: Sequence[RiskProvider] | AuthError | RequestFailed) -> Finding:
    """Judge an API token by what listing the providers with it came to."""
    if isinstance(found, RequestFailed) and found.status == 401:
        return Finding(
            "mend", "credentials", f"OKTA_CLIENT_TOKEN is wrong, expired or revoked; create a new one ({found})"
        )
    if isinstance(found, RequestFailed) and found.status is None:
        return Finding("mend", "credentials", f"no answer: {found}")
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
    whole = RateLimit().requests
    share = f"{least.limit} requests a window, of which {least.remaining} are left"
    if least.remaining == 0:
        wait = "" if least.resets_after is None else f" for {least.resets_after:.0f} s"
        return Finding("mend", "budget", f"{share}{wait}; give each that sends with it a share (limit=RateLimit(...))")
    if least.limit < whole:
        share += f"; less than the org's {whole}, and the client keeps to it by itself"
    return Finding("ok", "budget", share)
