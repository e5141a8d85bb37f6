"""`python -m benchmarks.models`: one signal from arguments to a valid object, and 20 from objects to bytes."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from statistics import median

import riskbatch as rb
from benchmarks.table import Row, in_turns, missing, show
from riskbatch.okta.risk_events import encode

PEER = "okta 3.0.0"
MESSAGE = "Credential stuffing"
IPS = [f"203.0.{n >> 8}.{n & 255}" for n in range(2000)]
NOW = datetime.now(UTC)


def seconds(call: Callable[[], object], times: int) -> float:
    """Return what the middle one of *times* calls takes: few meet a full garbage collection, which the SDK's classes
    make long."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return median(found)


def build() -> list[rb.RiskSignal]:
    return [rb.RiskSignal(ip, "HIGH", message=MESSAGE, timestamp=NOW) for ip in IPS]


def rows() -> Iterator[Row]:
    build_target, encode_target = "2 x", "4 x"
    try:
        from okta.api_client import ApiClient
        from okta.models.risk_event import RiskEvent
        from okta.models.risk_event_subject import RiskEventSubject
        from okta.request_executor import RequestExecutor
    except ImportError as error:
        yield missing("build and validate a signal, µs", PEER, error, build_target)
        yield missing("20 signals to bytes, µs", PEER, error, encode_target)
        return

    def build_theirs() -> list[RiskEvent]:
        return [
            RiskEvent(timestamp=NOW, subjects=[RiskEventSubject(ip=ip, riskLevel="HIGH", message=MESSAGE)])
            for ip in IPS
        ]

    signals, events = build()[:20], build_theirs()[:20]
    client, executor = object.__new__(ApiClient), object.__new__(RequestExecutor)

    def encode_theirs() -> bytes:  # as send_risk_events does: param_serialize, create_request, send_request
        return json.dumps(executor.clear_empty_params(client.sanitize_for_serialization(events))).encode()

    found = in_turns(
        {
            "build": lambda: seconds(build, 10) / len(IPS),
            "build theirs": lambda: seconds(build_theirs, 10) / len(IPS),
            "encode": lambda: seconds(lambda: encode([signal] for signal in signals), 500),
            "encode theirs": lambda: seconds(encode_theirs, 500),
        }
    )
    for what, name, target in (
        ("build and validate a signal, µs", "build", build_target),
        ("20 signals to bytes, µs", "encode", encode_target),
    ):
        ours, theirs = found[name], found[f"{name} theirs"]
        yield Row(what, f"{ours * 1e6:.2f}", f"{PEER}: {theirs * 1e6:.2f}", theirs / ours, target)


if __name__ == "__main__":
    show(rows())
