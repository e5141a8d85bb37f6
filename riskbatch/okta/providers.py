"""
Risk providers: who may send risk events, and what Okta does with them.

An org has at most three. A sender must be one, by its client id, before its first event; and what it sends changes
nothing at sign-in until its action is `enforce_and_log`. The API is deprecated together with that of risk events.

    async with Providers("https://acme.okta.com", ServiceApp(…, scopes=["okta.riskProviders.manage"])) as providers:
        await providers.create("Edge detection", client_id="0oa…", action="enforce_and_log")

Source: okta-management-openapi-spec 2025.08.0, RiskProvider; Okta's guide "Third-party risk integration" (both read
2026-08-21).
"""

import json
import re
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypeAlias, get_args

from attrs import evolve, frozen

from ..errors import AuthError, ConfigurationError, RequestFailed
from .auth import Auth
from .credentials import Credentials, Unauthenticated
from .environment import check_org_url, settings_from_env
from .error_bodies import describe, error_code
from .http import Request, Response, Transport, Unanswered
from .redaction import plain
from .renewal import call
from .transport import aiohttp_transport, open_session

if TYPE_CHECKING:
    import aiohttp

PATH = "/api/v1/risk/providers"
READ_SCOPE = "okta.riskProviders.read"
MANAGE_SCOPE = "okta.riskProviders.manage"
NO_CLIENT = "null"  # what the provider "Default ", which Okta makes for every org, has for a client id: this very text
_MAX_NAME = 50  # characters

Action: TypeAlias = Literal["none", "log_only", "enforce_and_log"]


@frozen
class RiskProvider:
    """
    A risk provider as Okta shows it. Change a copy (`attrs.evolve`) and give it to `update`.

    Attributes:
        name: Unique in the org, up to 50 characters.
        client_id: The OAuth service app that sends its events.
        action: `none` ignores them, `log_only` notes them in the System Log, `enforce_and_log` also feeds the risk of
            sign-ins.
        id: Okta's; empty for one that is not created yet.
        created: As Okta writes it, for people.
        last_updated: The same.
    """

    name: str
    client_id: str
    action: Action | str = "log_only"
    id: str = ""
    created: str = ""
    last_updated: str = ""

    def to_json(self) -> dict[str, str]:
        """
        Return what may be written: the rest is Okta's.

        Raises:
            ConfigurationError: A value is none that Okta takes. What Okta itself shows is not judged.
        """
        if not isinstance(self.name, str) or not 1 <= len(self.name) <= _MAX_NAME:
            raise ConfigurationError(f"name is {self.name!r}; it must have 1 to {_MAX_NAME} characters")
        if not isinstance(self.client_id, str) or not self.client_id:
            raise ConfigurationError(f"client_id is {self.client_id!r}; it must be that of the app that sends")
        if self.action not in get_args(Action):
            raise ConfigurationError(f"action is {self.action!r}; it must be one of {', '.join(get_args(Action))}")
        return {"name": self.name, "clientId": self.client_id, "action": self.action}

    @classmethod
    def from_json(cls, obj: Mapping[str, object]) -> Self:
        """Read Okta's object; what it has beyond our attributes is left out."""
        return cls(
            *(str(obj.get(name) or "") for name in ("name", "clientId", "action", "id", "created", "lastUpdated"))
        )


async def _ask(transport: Transport, credentials: Credentials, request: Request) -> object:
    failure: RequestFailed | AuthError
    try:
        response = await call(request, credentials, transport)
    except Unauthenticated as refused:
        reason = credentials.redact(refused.reason)
        failure = AuthError(reason) if refused.denied else RequestFailed(reason)
    except Unanswered as lost:
        failure = RequestFailed(credentials.redact(lost.reason))
    else:
        if response.status in (200, 201):
            return _read(response)
        request_id = response.headers.get("X-Okta-Request-Id")
        reason = plain(credentials.redact(describe(response)))
        failure = RequestFailed(reason, response.status, error_code(response), request_id)
    raise failure  # outside of the handlers, so that its context shows nothing of the request


def _read(response: Response) -> object:
    try:
        value: object = json.loads(response.body)
    except (ValueError, RecursionError):
        raise RequestFailed("the answer is not JSON", response.status) from None
    return value


class Providers:
    """
    The risk providers of one org. Use it as `async with Providers(...) as providers`.

    Args:
        org_url: As for `Client`.
        auth: An `ApiToken`, or a `ServiceApp` with the scope okta.riskProviders.manage (okta.riskProviders.read is
            enough for `list`).
        transport: As for `Client`.

    Raises:
        ConfigurationError: An argument or a value of a provider cannot work.
        AuthError: There is no access token, and somebody must mend that.
        RequestFailed: Okta refused the call, or did not answer; of every method.
    """

    def __init__(self, org_url: str, auth: Auth, *, transport: Transport | None = None) -> None:
        self._org = check_org_url(org_url)
        self._credentials = auth.for_org(self._org)
        self._transport = transport
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def from_env(cls, *, scope: str = MANAGE_SCOPE, org_url: str | None = None) -> Self:
        """Read the environment, but for *org_url*, as `Client.from_env` does; a service app asks for *scope* alone."""
        return cls(*settings_from_env(org_url, scopes=scope))

    async def __aenter__(self) -> Self:
        if self._transport is None:
            self._session = open_session()
            self._transport = aiohttp_transport(self._session, env_proxies=True)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = self._transport = None

    async def _call(self, method: str, path: str, body: bytes = b"") -> object:
        if self._transport is None:
            raise ConfigurationError("the providers are not open: use `async with`")
        return await _ask(self._transport, self._credentials, Request(method, f"{self._org}{path}", {}, body))

    async def _write(self, method: str, path: str, provider: RiskProvider) -> RiskProvider:
        """Write *provider* and return it as Okta shows it."""
        found = await self._call(method, path, json.dumps(provider.to_json()).encode())
        if not isinstance(found, dict):
            raise RequestFailed("the answer is no risk provider")
        return RiskProvider.from_json(found)

    async def list(self) -> list[RiskProvider]:
        """Return all of them, at most three."""
        found = await self._call("GET", PATH)
        return [RiskProvider.from_json(each) for each in found] if isinstance(found, list) else []

    async def create(self, name: str, client_id: str, action: Action = "log_only") -> RiskProvider:
        """
        Create one; Okta refuses a fourth, and a name that is taken.

        Args:
            name: Up to 50 characters.
            client_id: Of the service app that will send.
            action: `none`, `log_only` or `enforce_and_log`; see `RiskProvider`.
        """
        return await self._write("POST", PATH, RiskProvider(name, client_id, action))

    async def update(
        self,
        provider: RiskProvider | str,
        *,
        name: str | None = None,
        client_id: str | None = None,
        action: Action | None = None,
    ) -> RiskProvider:
        """
        Replace a provider, given as itself or by its id or name, with what is changed here; the rest stays.

        The "Default " provider of an org, whose client id is the text "null", becomes the sender's own this way.

        Args:
            provider: Which one.
            name: Its new name, if it is to have one.
            client_id: The service app that will send.
            action: What Okta does with its events; see `RiskProvider`.

        Raises:
            ConfigurationError: There is none, or more than one, of that name.
        """
        if isinstance(provider, str):
            wanted, found = provider, await self.list()
            matching = [each for each in found if each.id == wanted] or [
                each for each in found if each.name.strip() == wanted.strip()
            ]
            if len(matching) != 1:
                names = ", ".join(f"{each.name!r} ({each.id})" for each in found)
                raise ConfigurationError(f"there is no provider {wanted!r}; there are {names or 'none'}")
            provider = matching[0]
        changes = {"name": name, "client_id": client_id, "action": action}
        changed = evolve(provider, **{key: value for key, value in changes.items() if value is not None})
        if re.fullmatch(r"[A-Za-z0-9_-]+", changed.id) is None:
            raise ConfigurationError(f"id is {changed.id!r}; it must be that of a provider which exists")
        return await self._write("PUT", f"{PATH}/{changed.id}", changed)
