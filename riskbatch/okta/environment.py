"""
Which org, and with what credentials: the URL check, and the official SDK's environment variables.

Source: okta-sdk-python README, "Environment variables" (read 2026-08-21).
"""

import os
import re

from yarl import URL

from ..errors import AuthError, ConfigurationError
from .auth import ApiToken, Auth, ServiceApp
from .credentials import RISK_EVENTS_SCOPE
from .http import is_loopback

_HOST = re.compile(r"[a-z0-9._:-]+")  # as it goes out: an address, or a name in IDNA spelling


def check_org_url(org_url: str) -> str:
    """
    Return the base of *org_url*, without a trailing slash.

    Raises:
        ConfigurationError: It is no https URL of an org (plain http is taken for loopback), it has a path, query or
            credentials, it is the admin console's, or still a placeholder.
    """
    if not isinstance(org_url, str) or not org_url:
        raise ConfigurationError(f"org_url is {org_url!r}; it must be a URL such as https://acme.okta.com")
    if "{" in org_url or "yourOktaDomain" in org_url:
        raise ConfigurationError(f"org_url {org_url!r} is still a placeholder; put your own org there")
    try:
        url = URL(org_url.strip())
    except ValueError:
        raise ConfigurationError("org_url is not a URL; it must look like https://acme.okta.com") from None
    if url.user or url.password:
        raise ConfigurationError("org_url has credentials in it; they belong into auth")
    if (
        not url.host
        or not _HOST.fullmatch(url.raw_host or "")
        or url.path not in ("", "/")
        or url.query_string
        or url.fragment
    ):
        raise ConfigurationError(f"org_url is {org_url!r}; it must be scheme and host only, as https://acme.okta.com")
    if url.scheme != "https" and not (url.scheme == "http" and is_loopback(url.host)):
        raise ConfigurationError(f"org_url is {org_url!r}; it must begin with https:// (http is for loopback only)")
    if "-admin" in url.host:
        raise ConfigurationError(f"org_url is {org_url!r}, the admin console; leave out the -admin")
    if url.host.endswith(".com.com"):
        raise ConfigurationError(f"org_url is {org_url!r}; it ends in .com.com")
    return str(url.origin())


# The arguments with which an AuthError's message may begin, and the variables they come from.
_AUTH_VARIABLES = {
    "the API token": "OKTA_CLIENT_TOKEN",
    "client_id": "OKTA_CLIENT_CLIENTID",
    "private_key": "OKTA_CLIENT_PRIVATEKEY",
    "key_id": "OKTA_CLIENT_KID",
    "scopes": "OKTA_CLIENT_SCOPES",
}
_SWITCH = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def auth_from_env(scopes: str | None = None) -> Auth:
    """
    Return the credentials that the environment holds; see `Client.from_env`, which raises the same.

    Args:
        scopes: What a service app asks for, instead of what `OKTA_CLIENT_SCOPES` says.
    """
    mode = os.environ.get("OKTA_CLIENT_AUTHORIZATIONMODE") or "SSWS"
    make = {"ssws": _api_token_from_env, "privatekey": _service_app_from_env}.get(mode.strip().lower())
    if make is None:
        why = " (a token from elsewhere could not be renewed)" if mode.strip().lower() == "bearer" else ""
        raise ConfigurationError(f"OKTA_CLIENT_AUTHORIZATIONMODE is {mode!r}{why}; it must be SSWS or PrivateKey")
    try:
        return make(scopes)
    except AuthError as error:
        message = str(error)
    for argument, variable in _AUTH_VARIABLES.items():
        if message.startswith(argument):
            message = variable + message.removeprefix(argument)
    raise AuthError(message)  # outside of the handler, so that nothing of what failed hangs on it


def _api_token_from_env(_: str | None) -> Auth:
    if not os.environ.get("OKTA_CLIENT_TOKEN") and os.environ.get("OKTA_CLIENT_PRIVATEKEY"):
        raise ConfigurationError(
            "OKTA_CLIENT_TOKEN is not set; for a service app set OKTA_CLIENT_AUTHORIZATIONMODE to PrivateKey"
        )
    return ApiToken(_variable("OKTA_CLIENT_TOKEN"))


def _service_app_from_env(scopes: str | None) -> Auth:
    dpop = os.environ.get("OKTA_CLIENT_DPOPENABLED") or None
    if dpop is not None and dpop.strip().lower() not in _SWITCH:
        raise ConfigurationError(f"OKTA_CLIENT_DPOPENABLED is {dpop!r}; it must be true or false")
    return ServiceApp(
        _variable("OKTA_CLIENT_CLIENTID"),
        _variable("OKTA_CLIENT_PRIVATEKEY"),
        key_id=os.environ.get("OKTA_CLIENT_KID") or None,
        scopes=scopes or os.environ.get("OKTA_CLIENT_SCOPES") or RISK_EVENTS_SCOPE,
        dpop=None if dpop is None else _SWITCH[dpop.strip().lower()],
    )


def org_url_from_env() -> str:
    """Return the URL of the org that the environment names; see `Client.from_env`."""
    return _variable("OKTA_CLIENT_ORGURL")


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise ConfigurationError(f"the environment variable {name} is not set")
    return value
