"""
The proxy that the environment names for a request, as curl, requests and httpx find it.

aiohttp's own `trust_env` is not used: it would let a `.netrc` in, and send the token of a local org through HTTP_PROXY.
"""

from base64 import b64encode
from urllib.request import getproxies, proxy_bypass

from attrs import field, frozen
from yarl import URL

from ..errors import ConfigurationError
from .http import is_loopback

_SHORTEST = 4  # characters of a password that is taken out of texts


@frozen
class Proxy:
    """
    An HTTP proxy.

    Attributes:
        url: Of the proxy, without user and password.
        headers: What proves to the proxy who asks.
        secrets: Texts that must not be shown, in case the proxy echoes them.
    """

    url: str
    headers: dict[str, str] = field(factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)


def env_proxy(url: str) -> Proxy | None:
    """
    Return the proxy for a request to *url*, by HTTPS_PROXY, ALL_PROXY and NO_PROXY; never one for loopback.

    Raises:
        ConfigurationError: What the environment names is no http or https proxy.
    """
    target = URL(url)
    if is_loopback(target.host or ""):
        return None
    known = getproxies()
    found = known.get(target.scheme) or known.get("all")
    if not found or proxy_bypass(f"{target.host}:{target.port}"):
        return None
    return _parse(found)


def _parse(text: str) -> Proxy:
    try:
        url = URL(text if "://" in text else f"http://{text}")
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigurationError(
            "the proxy in the environment (HTTPS_PROXY, ALL_PROXY) cannot be used; it must look like "
            "http://proxy.example:3128, with special characters of a password percent-encoded"
        )
    if url.user is None:
        return Proxy(str(url.origin()))
    encoded = b64encode(f"{url.user}:{url.password or ''}".encode()).decode()
    passwords = {url.password or "", url.raw_password or ""}
    # A shorter one would be found in the words of any text, and is no secret.
    secrets = (encoded, *(password for password in passwords if len(password) >= _SHORTEST))
    return Proxy(str(url.origin()), {"Proxy-Authorization": f"Basic {encoded}"}, secrets)
