"""OpenTelemetry: what an exporter gets, with the real SDK, and what it must never get."""

import asyncio
import gc
import importlib
import re
import subprocess
import sys
import threading
import weakref
from itertools import pairwise

import pytest
from fake_org import FakeOrg, client, signal, signals
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv.attributes import error_attributes, http_attributes, server_attributes, url_attributes
from opentelemetry.semconv.metrics import http_metrics
from opentelemetry.trace import SpanKind, StatusCode

import riskbatch as rb
from riskbatch.emulator import DEFAULT_TOKEN, Fault
from riskbatch.okta.http import Unanswered
from riskbatch.otel import instrument

SERVER = {"server.address": "acme.okta.com", "server.port": 443}


class Telemetry:
    def __init__(self):
        self.reader, self.spans = InMemoryMetricReader(), InMemorySpanExporter()
        self.meters = MeterProvider([self.reader])
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.spans))

    def of(self, c):
        return instrument(c, meter_provider=self.meters, tracer_provider=self.tracers)

    def metrics(self):
        data = self.reader.get_metrics_data()
        return {m.name: m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics} if data else {}

    def points(self, name):
        """The values of a metric by its attributes, apart from those of the server."""
        metric = self.metrics().get(name)
        found = {}
        for point in metric.data.data_points if metric else ():
            assert SERVER.items() <= point.attributes.items()
            key = tuple(value for name, value in sorted(point.attributes.items()) if name not in SERVER)
            found[key] = point.value if hasattr(point, "value") else point
        return found

    def shutdown(self):
        self.meters.shutdown()
        self.tracers.shutdown()


@pytest.fixture
def telemetry():
    found = Telemetry()
    yield found
    found.shutdown()


async def test_counters_and_gauges_are_the_statistics(telemetry):
    """Every number that is exported is one of `statistics()`, and the books balance in each export."""
    org = FakeOrg(poison=lambda s: s.message == "bad")
    org.faults = [Fault.unavailable(), Fault.rate_limited(reset_in=10.0)]
    async with client(org) as c:
        telemetry.of(c)
        await c.enqueue_many([*signals(60), *signals(30, "HIGH", start=60), signal(99, message="bad")])
        for _ in range(200):
            await asyncio.sleep(0.5)
            s = c.statistics()
            assert telemetry.points("riskbatch.signals.waiting") == {
                (level.value,): count for level, count in s.waiting_by_level.items()
            }
            settled = telemetry.points("riskbatch.signals.settled")
            assert settled[("accepted",)] == s.accepted
            for name, value in {
                "signals.admitted": s.admitted,
                "signals.in_flight": s.in_flight,
                "signals.put_back": s.put_back,
                "signals.oldest_waiting": s.oldest_waiting,
                "requests.sent": s.requests,
                "requests.rate_limited": s.rate_limited,
                "budget.limit": s.limit,
                "budget.free": s.permits,
                "sending.resumes_after": s.resumes_after,
            }.items():
                assert telemetry.points(f"riskbatch.{name}") == {(): value}, name
            waiting = sum(telemetry.points("riskbatch.signals.waiting").values())
            assert s.admitted == sum(settled.values()) + waiting + s.in_flight
    assert telemetry.points("riskbatch.signals.settled")[("rejected",)] == 1
    assert telemetry.points("riskbatch.requests.rate_limited") == {(): 1}


async def test_histograms_come_from_the_settle_path(telemetry):
    """The wait of each accepted signal by level, and the size of each batch."""
    seen = []
    async with client(FakeOrg(), on_settled=seen.append) as c:
        telemetry.of(c)
        await c.enqueue_many([*signals(45), *signals(5, "HIGH", start=45)])
        await c.flush()
    waits = telemetry.points("riskbatch.signals.wait")
    assert {level: point.count for level, point in waits.items()} == {("LOW",): 45, ("HIGH",): 5}
    assert waits["HIGH",].max < 0.2
    assert 4.0 < waits["LOW",].max < 8.0
    sizes = telemetry.points("riskbatch.request.batch_size")[()]
    assert (sizes.count, sizes.sum, sizes.max) == (3, 50, 20)
    assert len(seen) == 50, "the user's own hook is left alone"


async def test_a_span_per_request_by_the_conventions(telemetry):
    """A root span of kind CLIENT for each request, with what the conventions for HTTP ask for and no more."""
    org = FakeOrg()
    org.faults = [Fault.unavailable(), Unanswered("ClientOSError: reset", may_have_arrived=True), None]
    c = client(org)
    telemetry.of(c)
    with telemetry.tracers.get_tracer("app").start_as_current_span("the request that happened to open the client"):
        await c.__aenter__()
    await c.enqueue_many(signals(3, "HIGH"))
    await c.flush()
    await c.aclose()
    first, second, third = [span for span in telemetry.spans.get_finished_spans() if span.kind is SpanKind.CLIENT]
    common = {
        http_attributes.HTTP_REQUEST_METHOD: "POST",
        server_attributes.SERVER_ADDRESS: "acme.okta.com",
        server_attributes.SERVER_PORT: 443,
        url_attributes.URL_FULL: "https://acme.okta.com/api/v1/risk/events/ip",
        "url.template": "/api/v1/risk/events/ip",
        "riskbatch.batch_size": 3,
    }
    status, error = http_attributes.HTTP_RESPONSE_STATUS_CODE, error_attributes.ERROR_TYPE
    assert first.attributes == common | {status: 503, error: "503"}
    assert second.attributes == common | {error: "ClientOSError"}
    assert third.attributes == common | {status: 202}
    assert [span.status.status_code for span in (first, second, third)] == [StatusCode.ERROR] * 2 + [StatusCode.UNSET]
    for span in (first, second, third):
        assert span.parent is None
        assert span.name == "POST /api/v1/risk/events/ip"
        assert not span.links
        assert not span.events
    duration = telemetry.metrics()[http_metrics.HTTP_CLIENT_REQUEST_DURATION]
    assert duration.unit == "s"
    assert sum(point.count for point in duration.data.data_points) == 3


async def test_the_span_is_current_while_the_request_is_under_way(telemetry):
    """What instruments aiohttp as well nests its spans in ours, and nobody else's."""
    inside = []

    async def transport(request):
        inside.append(trace.get_current_span().get_span_context().span_id)
        return await org(request)

    org = FakeOrg()
    async with client(transport) as c:
        telemetry.of(c)
        await (await c.enqueue(signal(0, "HIGH")))
    (span,) = telemetry.spans.get_finished_spans()
    assert inside == [span.context.span_id]
    assert not trace.get_current_span().get_span_context().is_valid


async def test_nothing_of_signals_or_secrets_or_servers_is_in_it(telemetry):
    """No address, message, token or server's word is in any attribute, name or status; attributes have few values."""
    org = FakeOrg(poison=lambda s: s.ip.endswith("7"))
    org.faults = [Fault.error(401, "E0000011"), Unanswered(f"Odd {DEFAULT_TOKEN}: 203.0.113.7", may_have_arrived=True)]
    async with client(org, when_full="shed", capacity=300) as c:
        telemetry.of(c)
        await c.enqueue_many([rb.RiskSignal(f"203.0.113.{n}", "LOW", message="very private") for n in range(200)])
        await c.flush()
    shown = telemetry.reader.get_metrics_data().to_json()
    shown += "".join(span.to_json() for span in telemetry.spans.get_finished_spans())
    for secret in ("203.0.113", "private", DEFAULT_TOKEN, "SSWS", "Invalid token"):
        assert secret not in shown
    values = {str(v) for m in telemetry.metrics().values() for p in m.data.data_points for v in p.attributes.values()}
    assert len(values) < 30


async def test_clients_of_one_org_are_added_up_and_counters_never_fall(telemetry):
    """Two clients open and close; each export's counters are at least those of the last."""
    seen = []
    for _ in range(3):
        async with client(FakeOrg()) as one, client(FakeOrg()) as other:
            telemetry.of(one)
            telemetry.of(other)
            for c in (one, other):
                await c.enqueue_many(signals(30))
            seen.append(telemetry.points("riskbatch.signals.admitted")[()])
            assert telemetry.points("riskbatch.signals.waiting")[("LOW",)] == 60
            assert telemetry.points("riskbatch.budget.limit")[()] == 60
            await one.aclose()
            seen.append(telemetry.points("riskbatch.signals.admitted")[()])
        seen.append(telemetry.points("riskbatch.signals.settled")[("accepted",)])
    assert seen[2::3] == [60, 120, 180]
    assert all(a <= b for a, b in pairwise(seen))
    assert telemetry.points("riskbatch.signals.waiting") == {}


async def test_it_can_be_ended_and_begun_again(telemetry):
    """`uninstrument`, or leaving it as a block, leaves nothing behind; what was counted stays counted, once."""
    org = FakeOrg()
    async with client(org) as c:
        with telemetry.of(c):
            await c.enqueue_many(signals(20))
            await c.flush()
        await c.enqueue_many(signals(20))
        await c.flush()
        assert telemetry.points("riskbatch.signals.admitted") == {(): 20}
        again = telemetry.of(c)
        await c.enqueue_many(signals(20))
        await c.flush()
        again.uninstrument()
        again.uninstrument()
        assert telemetry.points("riskbatch.signals.admitted") == {(): 40}
        watchers = c._observers
        assert watchers.settled == watchers.request == watchers.closed == []
    assert len(telemetry.spans.get_finished_spans()) == 2


async def test_a_second_call_counts_nothing_twice(telemetry):
    """Who instruments a client again by mistake gets what is there already."""
    async with client(FakeOrg()) as c:
        assert telemetry.of(c) is telemetry.of(c)
        await (await c.enqueue(signal(0, "HIGH")))
        assert telemetry.points("riskbatch.signals.admitted") == {(): 1}
    assert len(telemetry.spans.get_finished_spans()) == 1


async def test_a_closed_client_is_not_kept_alive(telemetry):
    """Whoever drops a client need not think of its instrumentation."""
    async with client(FakeOrg()) as c:
        held = telemetry.of(c)
        await c.enqueue(signal())
    gone = weakref.ref(c)
    del c
    gc.collect()
    assert gone() is None
    assert telemetry.points("riskbatch.signals.settled")[("accepted",)] == 1
    held.uninstrument()


def test_without_an_sdk_it_costs_nothing_and_breaks_nothing():
    """With the API package alone everything is a no-op; the core never loads it."""

    async def main():
        async with client(FakeOrg()) as c:
            instrument(c)
            await (await c.enqueue(signal(0, "HIGH")))
            return c.statistics().accepted

    assert asyncio.run(main()) == 1
    code = "import sys, riskbatch, riskbatch.cli; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    """A missing package is named by the extra that brings it."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "riskbatch.otel")
    with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[otel\]'"):
        importlib.import_module("riskbatch.otel")


def test_names_and_units_are_in_order(telemetry):
    """Names are lower case with dots, units are UCUM or annotations, and none is the namespace of another."""

    async def main():
        async with client(FakeOrg()) as c:
            telemetry.of(c)
            await (await c.enqueue(signal(0, "HIGH")))
            return telemetry.metrics()

    found = asyncio.run(main())
    for name, metric in found.items():
        assert re.fullmatch(r"[a-z][a-z_]*(\.[a-z][a-z_]*)+", name)
        assert metric.unit in ("s", "1", "{signal}", "{request}", "{error}")
        assert metric.description.endswith(".")
        assert not [other for other in found if other.startswith(f"{name}.")]


def test_a_scrape_from_another_thread_sees_balanced_books(telemetry):
    """A reader's thread never looks at a client while its loop changes it, and never stops the loop."""
    stop, exports = threading.Event(), []

    def scrape():
        names = [f"riskbatch.signals.{name}" for name in ("admitted", "settled", "waiting", "in_flight")]
        while not stop.is_set():
            found = telemetry.metrics()
            if found:
                exports.append([sum(point.value for point in found[name].data.data_points) for name in names])

    async def main():
        options = {"limit": rb.RateLimit(60_000, 60.0)}
        async with client(FakeOrg(limit=60_000, delay=lambda: (0.0, 0.001)), **options) as c:
            telemetry.of(c)
            thread = threading.Thread(target=scrape)
            thread.start()
            for _ in range(20):
                await c.enqueue_many(signals(100))
                await asyncio.sleep(0.01)
            await c.flush()
            stop.set()
            await asyncio.to_thread(thread.join)

    asyncio.run(main())
    assert len(exports) > 5
    assert all(admitted == settled + waiting + flying for admitted, settled, waiting, flying in exports)


def test_a_loop_that_is_blocked_does_not_block_a_scrape_for_long(telemetry, monkeypatch):
    """A scrape shows what was last seen when the loop has no turn."""
    monkeypatch.setattr("riskbatch.otel._SCRAPE_TIMEOUT", 0.01)
    exports = []

    async def main():
        async with client(FakeOrg(delay=lambda: (0.0, 0.0))) as c:
            telemetry.of(c)
            await c.enqueue_many(signals(10))
            assert telemetry.points("riskbatch.signals.admitted") == {(): 10}
            thread = threading.Thread(target=lambda: exports.append(telemetry.points("riskbatch.signals.admitted")))
            c.enqueue_nowait(signal(10))
            thread.start()
            thread.join()  # which blocks the loop

    asyncio.run(main())
    assert exports == [{(): 10}]
