"""An org behind a transport on a virtual clock, with a service app; and what its tests share."""

import asyncio
import json
from base64 import urlsafe_b64decode
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from urllib.parse import parse_qsl

from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc.jwk import ECKey
from multidict import CIMultiDict

import riskbatch as rb
from riskbatch.emulator import EmulatedRequest, Org
from riskbatch.okta.http import Request, Response

ORG = "https://acme.okta.com"
TOKEN_URL = f"{ORG}/oauth2/v1/token"
START = datetime(2026, 8, 21, 12, 0, tzinfo=UTC)
WIDE = rb.RateLimit(30, 60.0)


@cache
def ec_key() -> ECKey:
    return ECKey.generate_key("P-256", {"kid": "first"})


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key, form=ser.PrivateFormat.PKCS8, encryption=None) -> str:
    return key.private_bytes(ser.Encoding.PEM, form, encryption or ser.NoEncryption()).decode()


def service_app(**more) -> rb.ServiceApp:
    return rb.ServiceApp("0oa1", ec_key().as_dict(private=True), **more)


class Acme:
    """An org behind a transport: it answers after *latency*, by the virtual clock, and remembers what it was sent."""

    def __init__(self, *, dpop=True, latency=0.1, **options) -> None:
        options = {"limit": 10_000, "base_url": ORG} | options
        self.org = Org(**options)
        self.app = self.org.register_app("0oa1", ec_key().as_dict(private=False), dpop=dpop)
        self.latency = latency
        self.token_latency = latency
        self.script = None  # (is_token, request) -> Response, an exception, or None
        self.sent: list[tuple[float, bool, Request, Response | None]] = []

    @property
    def oauth(self):
        return self.org.oauth

    def token_times(self) -> list[float]:
        return [at for at, is_token, *_ in self.sent if is_token]

    def statuses(self) -> list[int]:
        return [exchange.status for exchange in self.org.requests]

    async def transport(self, request: Request) -> Response:
        loop = asyncio.get_running_loop()
        path = request.url.removeprefix(ORG)
        is_token = path == "/oauth2/v1/token"
        at = loop.time()
        self.sent.append((at, is_token, request, None))
        place = len(self.sent) - 1
        instead = self.script(is_token, request) if self.script else None
        response = instead
        if instead is None:
            headers = {**request.headers, "Host": "acme.okta.com"}
            wall = START.timestamp() + loop.time()
            emulated = EmulatedRequest(request.method, path, CIMultiDict(headers), request.body)
            answer = self.org.answer(emulated, loop.time(), wall)
            response = Response(answer.status, CIMultiDict(answer.headers), answer.body)
        self.sent[place] = (at, is_token, request, None if isinstance(response, Exception) else response)
        await asyncio.sleep(self.token_latency if is_token else self.latency)
        if isinstance(response, Exception):
            raise response
        return response


class Wall:
    """The client's wall clock: the virtual one, and what somebody has put it off by."""

    off = timedelta()

    @classmethod
    def now(cls, _zone) -> datetime:
        return START + timedelta(seconds=asyncio.get_running_loop().time()) + cls.off


@asynccontextmanager
async def sending(acme: Acme, app=None, **options):
    options = {"limit": WIDE} | options
    async with (
        asyncio.timeout(50_000),
        rb.Client(f"{ORG}/", app or service_app(), transport=acme.transport, **options) as client,
    ):
        yield client
    check(acme)


def check(acme: Acme) -> None:
    """What holds after every run: no id was ever used twice, and never more than 30 requests in a minute."""
    assert len(acme.oauth.spent) == len(set(acme.oauth.spent))
    assert acme.org.most_in_any_window(60.0) <= 30


def signal(number=1, level="HIGH", **more) -> rb.RiskSignal:
    return rb.RiskSignal(f"203.0.{number // 250}.{number % 250 + 1}", level, **more)


async def accepted(receipts) -> bool:
    return {type(await receipt) for receipt in receipts} == {rb.Accepted}


def answer(status, body=b"", **headers) -> Response:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, CIMultiDict(headers), body if isinstance(body, bytes) else json.dumps(body).encode())


def oauth_answer(status, error, description="", **headers) -> Response:
    return answer(status, {"error": error, "error_description": description}, **headers)


def challenge(status, error, description="", scheme="DPoP", **headers) -> Response:
    text = f'{scheme} realm="http://acme.okta.com", error="{error}", error_description="{description}"'
    return answer(status, WWW_Authenticate=text, **headers)


def form_claims(request: Request) -> dict:
    return claims(dict(parse_qsl(request.body.decode()))["client_assertion"])


def claims(jwt: str) -> dict:
    return json.loads(urlsafe_b64decode(jwt.split(".")[1] + "=="))
