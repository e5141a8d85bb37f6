"""
OpenTelemetry: metrics and a span per request of a client, through the API package alone (extra `[otel]`).

    import riskbatch.otel
    ...
    riskbatch.otel.instrument(client)

Names and attributes are those of OpenTelemetry's semantic conventions for HTTP clients (as in the package
opentelemetry-semantic-conventions 0.66b2); what these have no name for begins with `riskbatch.`, with units in UCUM.
Attributes are few and of few values: the org's address, levels, outcomes, statuses. No address or message of a signal,
no credential and nothing that a server says is in them.
"""

import asyncio
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeAlias

from yarl import URL

try:
    from opentelemetry import metrics, trace
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "riskbatch.otel needs OpenTelemetry's API: in a checkout of riskbatch, pip install '.[otel]'"
    ) from None
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import SpanKind, Status, StatusCode

from .client import Client
from .errors import RiskbatchError
from .okta.http import Request, Response, Transport, Unanswered
from .receipts import Accepted, Receipt
from .signals import RiskLevel
from .statistics import Statistics
from .version import __version__

_Attributes: TypeAlias = Mapping[str, str | int]
_Values: TypeAlias = Iterable[tuple[float, _Attributes]]
_Key: TypeAlias = tuple[tuple[str, str | int], ...]

_NONE: _Attributes = {}
_SCRAPE_TIMEOUT = 1.0  # seconds that a scrape waits for event loops that are busy; then it shows what was last seen

# Boundaries in seconds: the first are those of the conventions for HTTP clients.
_ANSWERS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_WAITS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
_SIZES = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)


def instrument(
    client: Client,
    *,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
) -> "Instrumentation":
    """
    Export what *client* does from now on; `uninstrument()` on what is returned, or leaving it as a block, ends that.

    It may be called before the client is opened or while it is open, and it keeps no client alive. Clients of one org
    are shown as one: their counts are added up, and stay when a client is closed. A second call for a client, while
    the first holds, returns what the first did.

    Args:
        client: Any client; its `on_settled` is left alone.
        tracer_provider: Instead of the global one.
        meter_provider: Instead of the global one.
    """
    if client not in _active:
        _active[client] = Instrumentation(client, tracer_provider, meter_provider)
    return _active[client]


class Instrumentation:
    """What `instrument` has begun; see there."""

    def __init__(
        self,
        client: Client,
        tracer_provider: trace.TracerProvider | None,
        meter_provider: metrics.MeterProvider | None,
    ) -> None:
        url = URL(client.org_url)
        self._server: _Attributes = {"server.address": url.host or "", "server.port": url.port or 443}
        self._levels = {level: {**self._server, "riskbatch.risk_level": level.value} for level in RiskLevel}
        self._tracer = trace.get_tracer("riskbatch", __version__, tracer_provider)
        self._meters = _meters_of(meter_provider)
        self._watched = _Watched(client, self._server)
        self._meters.watch(self._watched)
        self._end = client.observe(settled=self._settled, request=self._request, closed=self._closed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.uninstrument()

    def uninstrument(self) -> None:
        """End it; a second call does nothing. Counters keep what they have counted."""
        self._end()
        self._watched.read(time.monotonic() + _SCRAPE_TIMEOUT)
        client = self._watched.client()
        if client is not None:
            _active.pop(client, None)
        self._meters.forget(self._watched)

    def _closed(self, statistics: Statistics) -> None:
        self._watched.last = statistics
        self._meters.forget(self._watched)

    def _settled(self, receipts: Sequence[Receipt]) -> None:
        accepted = [receipt for receipt in receipts if isinstance(receipt.outcome, Accepted)]
        if accepted:
            now = asyncio.get_running_loop().time()
            for receipt in accepted:
                self._meters.waits.record(now - receipt.admitted_at, self._levels[receipt.signal.risk_level])

    async def _request(self, request: Request, send: Transport) -> Response:
        path = URL(request.url).path
        known: dict[str, str | int] = {"http.request.method": request.method, **self._server, "url.template": path}
        # A root: what happened to be current when the client was opened is not what this request is for.
        span = self._tracer.start_span(
            f"{request.method} {path}",
            context=Context(),
            kind=SpanKind.CLIENT,
            attributes={**known, "url.full": request.url},
        )
        began = time.perf_counter()
        result: dict[str, str | int] = {"error.type": "_OTHER"}
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                response = await send(request)
            result = _result(response)
            return response
        except BaseException as error:
            result = {"error.type": _name(error)}
            raise
        finally:
            self._meters.answers.record(time.perf_counter() - began, {**known, **result})
            if request.signals:
                self._meters.sizes.record(request.signals, self._server)
                span.set_attribute("riskbatch.batch_size", request.signals)
            span.set_attributes(result)
            if "error.type" in result:
                span.set_status(Status(StatusCode.ERROR))
            span.end()


def _result(response: Response) -> dict[str, str | int]:
    status: dict[str, str | int] = {"http.response.status_code": response.status}
    return status if response.status < 400 else {**status, "error.type": str(response.status)}


def _name(error: BaseException) -> str:
    """Return the kind of *error*; of a request without an answer that of its cause, which its text begins with."""
    if isinstance(error, Unanswered):
        kind = error.reason.partition(":")[0]
        return kind if kind.isidentifier() else "timeout" if error.reason.startswith("no answer") else "Unanswered"
    return type(error).__qualname__


class _Watched:
    """One client, weakly: what it had counted when the watching began, and what was last seen."""

    def __init__(self, client: Client, server: _Attributes) -> None:
        self.client = weakref.ref(client)
        self.server = server
        self.base = self.last = client.statistics_threadsafe()

    def read(self, until: float) -> bool:
        """Look again, waiting until `time.monotonic()` shows *until* at the most; return False if it is gone."""
        client = self.client()
        if client is None:
            return False
        with suppress(TimeoutError, RiskbatchError):
            self.last = client.statistics_threadsafe(max(0.0, until - time.monotonic()))
        return True


def _total(name: str) -> Callable[[Statistics], _Values]:
    return lambda statistics: [(getattr(statistics, name), _NONE)]


def _outcomes(statistics: Statistics) -> Iterator[tuple[float, _Attributes]]:
    for name in ("accepted", "rejected", "expired", "shed", "superseded", "abandoned"):
        yield getattr(statistics, name), {"riskbatch.outcome": name}


def _levels(statistics: Statistics) -> Iterator[tuple[float, _Attributes]]:
    for level, count in statistics.waiting_by_level.items():
        yield count, {"riskbatch.risk_level": level.value}


# Name, unit, what it says, and where it stands in the statistics.
_COUNTERS: list[tuple[str, str, str, Callable[[Statistics], _Values]]] = [
    ("riskbatch.signals.admitted", "{signal}", "Signals that were let in.", _total("admitted")),
    ("riskbatch.signals.settled", "{signal}", "Signals that have their outcome.", _outcomes),
    ("riskbatch.signals.put_back", "{signal}", "Times a signal came back from a failed request.", _total("put_back")),
    ("riskbatch.requests.sent", "{request}", "Requests, retries and probes included.", _total("requests")),
    ("riskbatch.requests.rate_limited", "{request}", "Answers 429 for the rate.", _total("rate_limited")),
    ("riskbatch.on_settled.errors", "{error}", "Times the on_settled hook raised.", _total("hook_errors")),
]
_SUMS: list[tuple[str, str, str, Callable[[Statistics], _Values]]] = [
    ("riskbatch.signals.waiting", "{signal}", "Signals in the queue.", _levels),
    ("riskbatch.signals.in_flight", "{signal}", "Signals in requests without an answer yet.", _total("in_flight")),
    ("riskbatch.signals.entering", "{signal}", "Signals that threads handed in, not admitted yet.", _total("entering")),
    ("riskbatch.requests.in_flight", "{request}", "Requests without an answer yet.", _total("requests_in_flight")),
    ("riskbatch.budget.limit", "{request}", "Requests that a window allows now.", _total("limit")),
    ("riskbatch.budget.free", "{request}", "Requests that could leave now.", _total("permits")),
]
_WORST: list[tuple[str, str, str, Callable[[Statistics], _Values]]] = [
    ("riskbatch.signals.oldest_waiting", "s", "Age of the oldest ready signal.", _total("oldest_waiting")),
    ("riskbatch.sending.paused", "1", "1 while somebody must mend something, else 0.", _total("paused")),
    ("riskbatch.sending.resumes_after", "s", "Time to the next try while there is trouble.", _total("resumes_after")),
]


_active: "weakref.WeakKeyDictionary[Client, Instrumentation]" = weakref.WeakKeyDictionary()
_meters: "weakref.WeakKeyDictionary[object, _Meters]" = weakref.WeakKeyDictionary()


def _meters_of(provider: metrics.MeterProvider | None) -> "_Meters":
    """Return the one set of instruments of *provider*; `None` is the global one, also before it is set."""
    key = metrics.get_meter if provider is None else provider
    if key not in _meters:
        _meters[key] = _Meters(metrics.get_meter("riskbatch", __version__, provider))
    return _meters[key]


class _Meters:
    """The instruments of one meter provider, and the clients that they show."""

    def __init__(self, meter: metrics.Meter) -> None:
        # A scrape runs in another thread. Whoever holds this waits for no loop.
        self._lock = threading.Lock()
        self._watched: list[_Watched] = []
        self._shown: set[str] = set()
        self._past: dict[str, Counter[_Key]] = {name: Counter() for name, *_ in _COUNTERS}
        self.answers = meter.create_histogram(
            "http.client.request.duration",
            "s",
            "Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=_ANSWERS,
        )
        self.sizes = meter.create_histogram(
            "riskbatch.request.batch_size",
            "{signal}",
            "Signals that a request carried.",
            explicit_bucket_boundaries_advisory=_SIZES,
        )
        self.waits = meter.create_histogram(
            "riskbatch.signals.wait",
            "s",
            "Time from the admission of a signal to its acceptance.",
            explicit_bucket_boundaries_advisory=_WAITS,
        )
        for name, unit, text, values in _COUNTERS:
            meter.create_observable_counter(name, [self._counting(name, values)], unit, text)
        for name, unit, text, values in _SUMS:
            meter.create_observable_up_down_counter(name, [self._showing(name, values, sum)], unit, text)
        for name, unit, text, values in _WORST:
            meter.create_observable_gauge(name, [self._showing(name, values, max)], unit, text)

    def watch(self, watched: _Watched) -> None:
        """Show *watched* too."""
        with self._lock:
            self._watched.append(watched)

    def forget(self, watched: _Watched) -> None:
        """Keep what *watched* has counted, and look at it no more."""
        with self._lock:
            if watched in self._watched:
                self._watched.remove(watched)
                for name, _, _, values in _COUNTERS:
                    self._past[name].update(_counted(watched, values))

    def _read(self, name: str) -> None:
        """
        Look at all clients again, if the instrument *name* has shown the last look already.

        A scrape asks each instrument once; so all of them show one look, in which the books balance.
        """
        if self._shown and name not in self._shown:
            self._shown.add(name)
            return
        self._shown = {name}
        until = time.monotonic() + _SCRAPE_TIMEOUT
        for watched in list(self._watched):
            if not watched.read(until):
                self.forget(watched)

    def _counting(
        self, name: str, values: Callable[[Statistics], _Values]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterator[Observation]:
            self._read(name)
            with self._lock:
                totals = self._past[name].copy()
                for watched in self._watched:
                    totals.update(_counted(watched, values))
            return (Observation(total, dict(key)) for key, total in totals.items())

        return observe

    def _showing(
        self, name: str, values: Callable[[Statistics], _Values], combine: Callable[[list[float]], float]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterator[Observation]:
            self._read(name)
            found: dict[_Key, list[float]] = {}
            with self._lock:
                for watched in self._watched:
                    for value, attributes in values(watched.last):
                        found.setdefault(_key(watched, attributes), []).append(float(value))
            return (Observation(combine(each), dict(key)) for key, each in found.items())

        return observe


def _key(watched: _Watched, attributes: _Attributes) -> _Key:
    return tuple({**watched.server, **attributes}.items())


def _counted(watched: _Watched, values: Callable[[Statistics], _Values]) -> dict[_Key, int]:
    """Return what *watched* has counted since the watching began."""
    before = {str(attributes): int(value) for value, attributes in values(watched.base)}
    return {
        _key(watched, attributes): int(value) - before[str(attributes)] for value, attributes in values(watched.last)
    }
