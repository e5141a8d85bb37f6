"""What one client is doing: a frozen snapshot with a sentence for each number."""

from collections.abc import Mapping
from types import MappingProxyType

from attrs import field, frozen

from .signals import RiskLevel
from .stores.valkey.engine import FleetStatistics


@frozen
class Statistics:
    """
    A snapshot of one client. At any instant `admitted == settled + waiting + in_flight`.

    Attributes:
        admitted: Signals that were let in since the client was opened, and those that it found in its store.
        accepted: Signals that Okta took.
        rejected: Signals that Okta refused one by one.
        expired: Signals whose `expires_at` passed before they could be sent.
        shed: Signals that made room for others, or found none (`when_full="shed"`).
        superseded: Signals whose place a newer one for the same address took (`coalesce=True`).
        abandoned: Signals that the client's end left unsettled otherwise; a store keeps them for the next client. Those
            that it had not yet loaded have no receipt, and `on_settled` is not called for them.
        waiting: Signals in the queue.
        waiting_by_level: The same by level.
        entering: Signals that threads have handed in (`enqueue_threadsafe`) and that are not admitted yet.
        in_flight: Signals in requests that have no answer yet.
        oldest_waiting: Seconds since the oldest ready signal was admitted; 0.0 if none is ready.
        put_back: Times a signal came back from a request that failed and waits again.
        requests: Requests sent, retries and probes included.
        requests_in_flight: Requests without an answer yet.
        rate_limited: Answers 429 for the rate.
        limit: Requests a window allows now: what was configured, or less if the server's headers say so.
        permits: Requests that could leave now as far as the window is concerned.
        trouble: Why sending is slowed down or paused, or soon will be because the access token cannot be renewed, in
            the server's words where it had any; `None` if it is not.
        paused: Whether nothing but single probes is sent until somebody mends the `trouble`.
        resumes_after: Seconds until the next try while there is trouble or the server said to wait; 0.0 otherwise.
        hook_errors: Times `on_settled` raised.
        fleet: What all replicas do together, with a `ValkeyStore`; all the rest is of this client alone, except for
            *limit* and *permits*, which they share.
    """

    admitted: int = 0
    accepted: int = 0
    rejected: int = 0
    expired: int = 0
    shed: int = 0
    superseded: int = 0
    abandoned: int = 0
    waiting: int = 0
    waiting_by_level: Mapping[RiskLevel, int] = field(factory=lambda: MappingProxyType(dict.fromkeys(RiskLevel, 0)))
    entering: int = 0
    in_flight: int = 0
    oldest_waiting: float = 0.0
    put_back: int = 0
    requests: int = 0
    requests_in_flight: int = 0
    rate_limited: int = 0
    limit: int = 0
    permits: int = 0
    trouble: str | None = None
    paused: bool = False
    resumes_after: float = 0.0
    hook_errors: int = 0
    fleet: FleetStatistics | None = None

    @property
    def settled(self) -> int:
        """Signals that have an outcome."""
        return self.accepted + self.rejected + self.expired + self.shed + self.superseded + self.abandoned

    def status(self, org: str, state: str) -> str:
        """Return one line for an operator: what waits, what is in flight, permits, trouble."""
        levels = " ".join(f"{level.value} {count}" for level, count in self.waiting_by_level.items())
        entering = f", {self.entering} entering" if self.entering else ""
        others = ("rejected", "expired", "shed", "superseded", "abandoned")
        ends = "".join(f", {getattr(self, end)} {end}" for end in others if getattr(self, end))
        pause = f", next try in {self.resumes_after:.0f} s" if self.resumes_after else ""
        trouble = f", {'paused' if self.paused else 'slowed down'}: {self.trouble}" if self.trouble else ""
        fleet = f", fleet of {self.fleet.alive} with {self.fleet.waiting} waiting" if self.fleet else ""
        return (
            f"<Client {org} {state}: {self.waiting} waiting ({levels}){entering}, {self.in_flight} in flight, "
            f"{self.accepted} accepted{ends}, {self.permits} of {self.limit} permits free{fleet}{pause}{trouble}>"
        )
