"""What a fleet does, as one replica or an operator sees it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from attrs import field, frozen

from ...limiter import Limiter
from ...signals import RiskLevel


@frozen
class FleetStatistics:
    """
    A snapshot of a fleet, as of this replica's last look: some seconds old at most, older while the engine is away.

    Attributes:
        replicas: How many signals each replica has in flight, by its name (`host:pid:random`).
        alive: Replicas that were heard of within two leases.
        waiting: Signals in the shared queue, of all replicas.
        ready_by_level: Those of them that no retry holds back.
        in_flight: Signals in requests that have no answer yet.
        admitted: Signals that were let in since the queue was made.
        accepted: Signals that Okta took.
        requests: Requests sent since the queue was made, by all.
        limit: Requests a window allows the fleet now.
        permits: Requests that the fleet could send now as far as the window is concerned.
        held_after: Seconds until the server's word that nothing can be taken ends; 0.0 if there is none.
        away: Why the engine cannot be reached; `None` if it can.
    """

    replicas: Mapping[str, int] = field(factory=lambda: MappingProxyType({}))
    alive: int = 0
    waiting: int = 0
    ready_by_level: Mapping[RiskLevel, int] = field(factory=lambda: MappingProxyType(dict.fromkeys(RiskLevel, 0)))
    in_flight: int = 0
    admitted: int = 0
    accepted: int = 0
    requests: int = 0
    limit: int = 0
    permits: int = 0
    held_after: float = 0.0
    away: str | None = None

    @classmethod
    def of(cls, told: Mapping[str, Any], limiter: Limiter | None, now: float) -> "FleetStatistics":
        """Read what the engine tells; *limiter* stands where the fleet does at *now*, `None` if there never was one."""
        return cls(
            replicas=MappingProxyType(dict(told["replicas"])),
            alive=len(told["alive"]),
            waiting=told["waiting"],
            ready_by_level=MappingProxyType(dict(zip(RiskLevel, told["ready"], strict=True))),
            in_flight=told["in_flight"],
            admitted=told["admitted"],
            accepted=told["accepted"],
            requests=told["requests"],
            limit=limiter.window.limit if limiter else 0,
            permits=max(0, limiter.window.free(now)) if limiter else 0,
            held_after=max(0.0, limiter.held_until - now) if limiter else 0.0,
        )
