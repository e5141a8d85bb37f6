"""Never run: mypy --strict, and pyright, must accept what is right here and refuse each line with a type-ignore."""

import asyncio
import concurrent.futures
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_never, assert_type

import riskbatch as rb
from riskbatch import otel
from riskbatch.emulator import OktaEmulator
from riskbatch.okta.http import Request, Response, Transport
from riskbatch.okta.providers import Providers, RiskProvider
from riskbatch.testing import QUICK, RecordingTransport, lost, serve_okta


async def the_ten_lines(token: str) -> None:
    async with rb.Client("https://acme.okta.com", rb.ApiToken(token)) as client:
        assert_type(client, rb.Client)
        receipt = await client.enqueue(rb.RiskSignal("203.0.113.7", "HIGH", message="Credential stuffing"))
        assert_type(receipt, rb.Receipt)
        assert_type(await receipt, rb.Outcome)
        await asyncio.wait_for(receipt, 1.0)
        await asyncio.gather(receipt, receipt)
        assert_type(await client.enqueue_many([receipt.signal]), list[rb.Receipt])
        assert_type(await client.flush(timeout=1.0), int)
        assert_type(client.statistics().settled, int)


def the_ways_to_authenticate(pem: str, jwk: dict[str, str], path: Path) -> None:
    rb.ServiceApp("0oa1", pem)
    rb.ServiceApp("0oa1", jwk, key_id="k1", scopes=["okta.riskEvents.manage"], dpop=None)
    app = rb.ServiceApp("0oa1", path, scopes=("a", "b"), dpop=True)
    assert_type(app.scopes, tuple[str, ...])
    rb.Client("https://acme.okta.com", app)
    assert_type(rb.Client.from_env(), rb.Client)


async def the_providers(app: rb.ServiceApp) -> None:
    async with Providers("https://acme.okta.com", app) as providers:
        assert_type(await providers.list(), list[RiskProvider])
        made = await providers.create("Edge", "0oa1", "enforce_and_log")
        assert_type(await providers.update(made, action="none"), RiskProvider)
        await providers.create("Edge", "0oa1", "enforce")  # type: ignore[arg-type]


def every_outcome(outcome: rb.Outcome) -> str:
    match outcome:
        case rb.Accepted(request_id=okta):
            return okta or ""
        case rb.Rejected(reason=reason, code=code):
            return f"{code} {reason}"
        case rb.Expired() | rb.Shed():
            return ""
        case rb.Superseded(by=newer):
            return newer.ip
        case rb.Abandoned(reason=reason, may_have_arrived=maybe):
            return f"{reason} {maybe}"
        case _:
            assert_never(outcome)


def a_signal() -> rb.RiskSignal:
    return rb.RiskSignal("::1", rb.RiskLevel.LOW, timestamp=datetime.now(UTC), expires_at=None)


def another_thread(client: rb.Client, signal: rb.RiskSignal) -> None:
    future = client.enqueue_threadsafe(signal)
    assert_type(future, concurrent.futures.Future[rb.Receipt])
    assert_type(future.result(timeout=1.0).wait_threadsafe(1.0), rb.Outcome)
    assert_type(client.statistics_threadsafe(), rb.Statistics)
    client.enqueue_threadsafe("203.0.113.7")  # type: ignore[arg-type]


async def observed(client: rb.Client) -> None:
    with otel.instrument(client) as instrumentation:
        assert_type(instrumentation, otel.Instrumentation)

    def settled(receipts: Sequence[rb.Receipt]) -> None: ...

    async def around(request: Request, send: Transport) -> Response:
        return await send(request)

    client.observe(settled=settled, request=around, closed=lambda statistics: print(statistics.accepted))()
    client.observe(settled=around)  # type: ignore[arg-type]
    client.observe(settled)  # type: ignore[call-arg]


def the_tests_of_users(token: rb.ApiToken) -> None:
    okta = RecordingTransport(refuse=lambda signal: signal.risk_level is rb.RiskLevel.LOW)
    okta.answers += [503, lost()]
    rb.Client("https://acme.okta.com", token, transport=okta, **QUICK)
    assert_type(okta.signals, list[rb.RiskSignal])
    with serve_okta(limit=5) as org:
        assert_type(org, OktaEmulator)
    okta.answers += ["503"]  # type: ignore[list-item]


def misuses(signal: rb.RiskSignal, auth: rb.ApiToken) -> None:
    rb.RiskSignal("203.0.113.7")  # type: ignore[call-arg]
    rb.RiskSignal("203.0.113.7", "HIGH", "positional message")  # type: ignore[call-arg]
    signal.ip = "203.0.113.8"  # type: ignore[misc]
    rb.ServiceApp("0oa1", "pem", "k1")  # type: ignore[call-arg]
    rb.Client("https://acme.okta.com", "token")  # type: ignore[arg-type]
    rb.Client("https://acme.okta.com", auth, when_full="drop")  # type: ignore[arg-type]
    rb.Client("https://acme.okta.com", auth, limit=30)  # type: ignore[arg-type]
    rb.Client("https://acme.okta.com", auth, rb.RateLimit())  # type: ignore[call-arg]
    rb.Client("https://acme.okta.com", auth, store="signals.db")  # type: ignore[arg-type]


async def misuses_of_an_open_client(client: rb.Client, receipt: rb.Receipt) -> None:
    await client.enqueue("203.0.113.7")  # type: ignore[arg-type]
    await client.enqueue_many(rb.RiskSignal("::1", "LOW"))  # type: ignore[arg-type]
    await client.enqueue_nowait(receipt.signal).outcome  # type: ignore[misc]
    client.statistics().admitted = 0  # type: ignore[misc]
    client.statistics().waiting_by_level[rb.RiskLevel.LOW] = 0  # type: ignore[index]
    print(receipt.outcome.request_id)  # type: ignore[union-attr]


def the_stores(path: Path) -> None:
    rb.Client("https://acme.okta.com", rb.ApiToken("t"), store=rb.SqliteStore(path, synchronous="NORMAL"))
    fleet = rb.ValkeyStore("valkey://localhost:6379/0", name="acme", lease=5.0, buffer=100)
    client = rb.Client("https://acme.okta.com", rb.ApiToken("t"), store=fleet)
    assert_type(client.statistics().fleet, rb.FleetStatistics | None)
    rb.ValkeyStore("valkey://localhost:6379/0", "acme")  # type: ignore[call-arg]
    rb.SqliteStore(path, synchronous="OFF")  # type: ignore[arg-type]
    rb.Client("https://acme.okta.com", rb.ApiToken("t"), store="signals.db")  # type: ignore[arg-type]
