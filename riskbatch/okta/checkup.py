"""
Looking whether everything is in order for sending, and changing nothing.

No risk event is sent unless one is asked for: that the endpoint is there shows in how it refuses a GET, that the
credentials are good in the list of risk providers, and the clock in any answer's `Date`. What an org lets one know only
with an event, above all the budget, is then left open.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

from ..errors import AuthError, ConfigurationError, RequestFailed, RiskbatchError
from ..signals import RiskLevel, RiskSignal
from . import findings
from .auth import Auth, ServiceApp
from .credentials import RISK_EVENTS_SCOPE, Unauthenticated
from .environment import auth_from_env, check_org_url, org_url_from_env
from .error_bodies import describe
from .findings import Finding
from .http import HEADERS, Request, Transport, Unanswered
from .providers import MANAGE_SCOPE, READ_SCOPE, Providers, RiskProvider
from .proxies import env_proxy
from .redaction import plain
from .renewal import call, now_on, run_flow
from .risk_events import PATH, encode
from .verdicts import GONE


async def examine(transport: Transport, org_url: str | None = None, send: str | None = None) -> AsyncIterator[Finding]:
    """
    Yield findings about the org and the credentials that the environment names; ends where going on is pointless.

    Args:
        transport: One request out, one answer in.
        org_url: Instead of OKTA_CLIENT_ORGURL.
        send: An address for which one LOW signal is really sent.
    """
    auth = _credentials()
    try:
        org = check_org_url(org_url) if org_url else org_url_from_env()
    except RiskbatchError as error:
        yield Finding("mend", "url", str(error))
        if isinstance(auth, Finding):  # all that is missing is said at once
            yield auth
        return
    yield Finding("ok", "url", org)
    try:
        proxy = env_proxy(org)
    except ConfigurationError as error:
        yield Finding("mend", "proxy", str(error))
        return
    if proxy is not None:
        yield Finding("ok", "proxy", f"{proxy.url}, as the environment says (HTTPS_PROXY, ALL_PROXY)")
    try:
        response = await transport(Request("GET", f"{org}{PATH}", HEADERS, b""))
    except Unanswered as lost:
        yield findings.unreached(lost.reason, proxy.url if proxy else None)
        return
    yield findings.endpoint(response)
    yield findings.clock(response, datetime.now(UTC))
    if isinstance(auth, Finding):
        yield auth
        return
    is_gone = response.status in GONE  # then there is no advice about what to send with
    async for finding in _examine_rights(transport, org, auth, is_gone=is_gone):
        yield finding
    if send is not None and not is_gone:
        async for finding in _send(transport, org, auth, send):
            yield finding
    elif not is_gone:
        yield Finding("open", "budget", "Okta tells it with risk events only; `--send IP` sends one and looks")


def _credentials() -> Auth | Finding:
    """Return who sends, or what is wrong with the environment."""
    try:
        return auth_from_env()
    except RiskbatchError as error:
        return Finding("mend", "credentials", str(error))


async def _examine_rights(transport: Transport, org: str, auth: Auth, *, is_gone: bool) -> AsyncIterator[Finding]:
    if isinstance(auth, ServiceApp):
        finding = await _ask_for_token(transport, org, auth)
        yield finding
        if finding.state == "mend" or is_gone:
            return
    found = await _list(transport, org, auth)
    if not isinstance(auth, ServiceApp):
        yield findings.token_of(found)
        if isinstance(found, RequestFailed) and found.status == 401:
            return
    if not is_gone:
        yield findings.registration(found, auth.client_id if isinstance(auth, ServiceApp) else None)


async def _ask_for_token(transport: Transport, org: str, app: ServiceApp) -> Finding:
    if RISK_EVENTS_SCOPE not in app.scopes:
        return Finding("mend", "credentials", f"OKTA_CLIENT_SCOPES must have {RISK_EVENTS_SCOPE}")
    credentials = auth_from_env(RISK_EVENTS_SCOPE).for_org(org)
    try:
        await run_flow(credentials.renew(now_on(asyncio.get_running_loop())), transport)
    except Unauthenticated as refused:
        return findings.ungranted(credentials.redact(refused.reason), RISK_EVENTS_SCOPE)
    return Finding("ok", "credentials", f"{app.client_id} gets an access token for {RISK_EVENTS_SCOPE}")


async def _list(transport: Transport, org: str, auth: Auth) -> list[RiskProvider] | AuthError | RequestFailed:
    """Return the org's providers, or why they cannot be listed; either of two scopes will do."""
    failure: AuthError | RequestFailed | None = None
    for scope in (READ_SCOPE, MANAGE_SCOPE) if isinstance(auth, ServiceApp) else (None,):
        try:
            return await Providers(org, auth_from_env(scope), transport=transport).list()
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
    yield findings.sending(response, credentials.redact(describe(response)))
    yield findings.budget(response)
