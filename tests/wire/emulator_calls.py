"""Calls of an emulated org with an API token, for the tests of the emulator."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy

from riskbatch.emulator import (
    DEFAULT_TOKEN,
    RISK_EVENTS_PATH,
    EmulatedRequest,
    EmulatedResponse,
    OktaEmulator,
)

WALL = 1_700_000_000.0


class Answer(NamedTuple):
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def error(self) -> dict:
        return json.loads(self.body)

    @property
    def causes(self) -> list[str]:
        return [cause["errorSummary"] for cause in self.error["errorCauses"]]


class Caller(NamedTuple):
    okta: OktaEmulator
    session: aiohttp.ClientSession

    async def send(
        self, body=None, *, method="POST", path=RISK_EVENTS_PATH, auth: str | None = f"SSWS {DEFAULT_TOKEN}", **headers
    ) -> Answer:
        """Send *body*, JSON unless it is bytes already. A header given as `None` is left out."""
        chosen = {"Authorization": auth, "Content-Type": "application/json", "Accept": "application/json"}
        chosen |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, bytes) else json.dumps([event()] if body is None else body).encode()
        async with self.session.request(
            method,
            self.okta.url + path,
            data=None if method == "GET" else io.BytesIO(data),  # raw bytes would warn when they are large
            headers={name: value for name, value in chosen.items() if value is not None},
            skip_auto_headers=["Content-Type", "Accept"],
            allow_redirects=False,
        ) as response:
            return Answer(response.status, response.headers, await response.read())


@asynccontextmanager
async def calling(**options) -> AsyncIterator[Caller]:
    async with OktaEmulator(**options) as okta, aiohttp.ClientSession() as session:
        yield Caller(okta, session)


def subject(ip="203.0.113.7", level="HIGH", **more) -> dict:
    return {"ip": ip, "riskLevel": level, **more}


def event(*subjects, **more) -> dict:
    return {"subjects": list(subjects) or [subject()], **more}


def request(body=None, *, token=DEFAULT_TOKEN) -> EmulatedRequest:
    headers = CIMultiDict({"Authorization": f"SSWS {token}", "Content-Type": "application/json"})
    return EmulatedRequest("POST", RISK_EVENTS_PATH, headers, json.dumps(body or [event()]).encode())


def rate(response: EmulatedResponse | Answer) -> tuple[int, int, int]:
    headers = CIMultiDict(response.headers)
    return tuple(int(headers[f"X-Rate-Limit-{name}"]) for name in ("Limit", "Remaining", "Reset"))


def rated(answer: Answer) -> bool:
    return any(name.lower().startswith("x-rate-limit") for name in answer.headers)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(2):
        while not condition():  # noqa: ASYNC110 - a test may poll what has no event
            await asyncio.sleep(0.002)
