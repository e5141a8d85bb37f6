"""
Which org, and with what credentials: the URL check, and the official SDK's environment variables.

Source: okta-sdk-python README, "Environment variables" (read 2026-08-21).
"""

import os
import re
from collections.abc import Iterable
from typing import TypedDict

from yarl import URL

from ..errors import AuthError, ConfigurationError
from .auth import ApiToken, Auth, ServiceApp
from .credentials import RISK_EVENTS_SCOPE
from .http import is_loopback

_ORG_URL = "OKTA_CLIENT_ORGURL"
_TOKEN = "OKTA_CLIENT_TOKEN"  # noqa: S105 - a variable's name
_HOST = re.compile(r"[a-z0-9._:-]+")  # as it goes out: an address, or a name in IDNA spelling


def check_org_url(org_url: str) -> str:
    """
    Return the base of *org_url*, without a trailing slash.

    Raises:
        ConfigurationError: It is no https URL of an org (plain http is taken for loopback), it has a path, query or
            credentials, it is the admin console's, or still a placeholder. The message begins "org_url".
    """
    if not isinstance(org_url, str) or not org_url:
        raise ConfigurationError(f"org_url is {org_url!r}; it must be a URL such as https://acme.okta.com")
    if "@" in org_url:
        raise ConfigurationError("org_url has credentials in it; they belong into auth")
    if "{" in org_url or "yourOktaDomain" in org_url:
        raise ConfigurationError(f"org_url {org_url!r} is still a placeholder; put your own org there")
    if "://" not in org_url:
        raise ConfigurationError(f"org_url is {org_url!r}, without a scheme; it must be like https://acme.okta.com")
    return _base(org_url)


def _base(org_url: str) -> str:
    try:
        url = URL(org_url.strip())
    except ValueError:
        raise ConfigurationError("org_url is not a URL; it must look like https://acme.okta.com") from None
    host = url.host or ""
    if not _HOST.fullmatch(url.raw_host or "") or url.path not in ("", "/") or url.query_string or url.fragment:
        raise ConfigurationError(f"org_url is {org_url!r}; it must be scheme and host only, as https://acme.okta.com")
    if url.scheme != "https" and not (url.scheme == "http" and is_loopback(host)):
        raise ConfigurationError(f"org_url is {org_url!r}; it must begin with https:// (http is for loopback only)")
    if "-admin" in host:
        raise ConfigurationError(f"org_url is {org_url!r}, the admin console; leave out the -admin")
    if host.endswith(".com.com"):
        raise ConfigurationError(f"org_url is {org_url!r}; it ends in .com.com")
    return str(url.origin())


# The arguments with which an AuthError's message may begin, and the variables they come from.
_AUTH_VARIABLES = {
    "the API token": _TOKEN,
    "client_id": "OKTA_CLIENT_CLIENTID",
    "private_key": "OKTA_CLIENT_PRIVATEKEY",
    "key_id": "OKTA_CLIENT_KID",
    "scopes": "OKTA_CLIENT_SCOPES",
}
_SWITCH = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def settings_from_env(
    org_url: str | None = None, auth: Auth | None = None, *, scopes: str | None = None
) -> tuple[str, Auth]:
    """
    Return the org's URL and who sends: what is given here, and the rest from the environment.

    Args:
        org_url: Instead of `OKTA_CLIENT_ORGURL`.
        auth: Instead of the credentials in the environment.
        scopes: What a service app asks for, instead of what `OKTA_CLIENT_SCOPES` says.

    Raises:
        ConfigurationError: Variables are missing, which are all named at once, or ask for what cannot be done.
        AuthError: The credentials in a variable cannot be used; the message names it.
    """
    _require([*([_ORG_URL] if org_url is None else []), *(_credential_variables() if auth is None else [])])
    return (org_url_from_env() if org_url is None else org_url), (auth_from_env(scopes) if auth is None else auth)


def org_url_from_env() -> str:
    """Return the URL of the org that the environment names; see `settings_from_env` for what is raised."""
    _require([_ORG_URL])
    try:
        return check_org_url(_variable(_ORG_URL))
    except ConfigurationError as error:
        message = str(error)
    raise ConfigurationError(f"{_ORG_URL}{message.removeprefix('org_url')}")


def auth_from_env(scopes: str | None = None) -> Auth:
    """Return the credentials that the environment holds; see `settings_from_env`."""
    _require(_credential_variables())
    try:
        return ApiToken(_variable(_TOKEN)) if _mode() == "ssws" else _service_app(scopes)
    except AuthError as error:
        message = str(error)
    for argument, variable in _AUTH_VARIABLES.items():
        if message.startswith(argument):
            message = variable + message.removeprefix(argument)
    raise AuthError(message)  # outside of the handler, so that its context shows no secret


def _service_app(scopes: str | None) -> ServiceApp:
    dpop = _variable("OKTA_CLIENT_DPOPENABLED").lower()
    if dpop and dpop not in _SWITCH:
        raise ConfigurationError(f"OKTA_CLIENT_DPOPENABLED is {dpop!r}; it must be true or false")
    return ServiceApp(
        _variable("OKTA_CLIENT_CLIENTID"),
        _variable("OKTA_CLIENT_PRIVATEKEY"),
        key_id=_variable("OKTA_CLIENT_KID") or None,
        scopes=scopes or _variable("OKTA_CLIENT_SCOPES") or RISK_EVENTS_SCOPE,
        dpop=_SWITCH.get(dpop),
    )


def _mode() -> str:
    return _variable("OKTA_CLIENT_AUTHORIZATIONMODE").lower() or "ssws"


def _credential_variables() -> list[str]:
    """Return the variables without which there are no credentials."""
    mode = _mode()
    if mode == "privatekey":
        return ["OKTA_CLIENT_CLIENTID", "OKTA_CLIENT_PRIVATEKEY"]
    if mode != "ssws":
        why = " (a token from elsewhere could not be renewed)" if mode == "bearer" else ""
        given = _variable("OKTA_CLIENT_AUTHORIZATIONMODE")
        raise ConfigurationError(f"OKTA_CLIENT_AUTHORIZATIONMODE is {given!r}{why}; it must be SSWS or PrivateKey")
    return [_TOKEN]


def _require(names: Iterable[str]) -> None:
    missing = [name for name in names if not _variable(name)]
    if missing:
        hint = ""
        if _TOKEN in missing and _variable("OKTA_CLIENT_PRIVATEKEY"):
            hint = "; for a service app set OKTA_CLIENT_AUTHORIZATIONMODE to PrivateKey"
        told = "; ".join(f"{name} is not set" for name in missing)
        raise ConfigurationError(f"in the environment, {told}{hint}")


def _variable(name: str) -> str:
    """Return the value without the white space around it: secrets that are mounted as files end in a newline."""
    return os.environ.get(name, "").strip()


class OptionsFromEnv(TypedDict, total=False):
    """Options of `Client` that the environment names; a variable that is not set, or empty, is left out."""

    limit: tuple[int, float]
    """Requests, and the seconds in which they may leave: the two arguments of `RateLimit`."""
    linger: float
    """Seconds."""


_LIMIT = re.compile(r"([1-9]\d{0,8})/(\d{1,9}(?:\.\d{1,9})?)s?", re.ASCII)
_SECONDS = re.compile(r"\d{1,9}(?:\.\d{1,9})?", re.ASCII)


def client_options_from_env() -> OptionsFromEnv:
    """
    Return what operators may change without code: `RISKBATCH_LIMIT` (`15/60s`) and `RISKBATCH_LINGER` (seconds).

    Raises:
        ConfigurationError: A value is none of these; the message names the variable, the value and an example.
    """
    options = OptionsFromEnv()
    if text := _variable("RISKBATCH_LIMIT"):
        match = _LIMIT.fullmatch(text)
        if match is None or float(match[2]) == 0:
            raise ConfigurationError(f"RISKBATCH_LIMIT is {text!r}; it must be REQUESTS/SECONDS, such as 15/60s")
        options["limit"] = int(match[1]), float(match[2])
    if text := _variable("RISKBATCH_LINGER"):
        if not _SECONDS.fullmatch(text):
            raise ConfigurationError(f"RISKBATCH_LINGER is {text!r}; it must be seconds, such as 0 or 2.5")
        options["linger"] = float(text)
    return options
