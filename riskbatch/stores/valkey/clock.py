"""The engine's clock on ours: where it is, whether it was stepped, and when something on it happens here."""

from attrs import frozen

_DRIFT = 0.001  # seconds a second: twice what an operating system slews a clock by
GRAIN = 1e-5  # seconds: ten times the engine's microsecond, and more than a float of a loop clock loses


class EngineClock:
    """
    Where the engine's clock is on ours, to within the time that an answer took.

    The engine's is a wall clock, which an administrator, NTP or a failover to another host may step; ours only runs
    on. So a step shows itself, and the scripts can be told of it (`skew`), before a permit comes back early.

    Attributes:
        step: Seconds by which the engine's clock was found to be ahead of where it should be; 0.0 if it was not.
        skew: The microseconds that the fleet has corrected the engine's clock by.
    """

    def __init__(self) -> None:
        self._low = self._high = self._read_at = 0.0
        self._known = False
        self.skew: int = 0
        self.step: float = 0.0

    def read(self, engine: float, skew: int, sent: float, received: float) -> None:
        """Note that the *engine*'s clock, corrected by *skew*, was read between *sent* and *received* on ours."""
        low, high = engine - received - GRAIN, engine - sent + GRAIN
        if not self._known or skew != self.skew:
            self._low, self._high, self.step = low, high, 0.0
        else:
            drift = _DRIFT * (received - self._read_at)
            old_low, old_high = self._low - drift, self._high + drift
            self.step = low - old_high if low > old_high else high - old_low if high < old_low else 0.0
            if self.step == 0.0:
                self._low, self._high = max(low, old_low), min(high, old_high)
        self._known, self.skew, self._read_at = True, skew, received

    def span(self, now: float) -> tuple[float, float] | None:
        """Return the earliest and the latest that the engine's clock can show at *now* on ours, if that is known."""
        drift = _DRIFT * (now - self._read_at)
        return (now + self._low - drift, now + self._high + drift) if self._known else None


@frozen
class Anchor:
    """
    One reading of the engine's clock, to tell its instants on ours and ours on its.

    The reading counts as made when its answer was received, which is after it was made: so no instant of the engine's
    comes early here.

    Attributes:
        engine: Microseconds on the engine's clock.
        here: Seconds on the loop clock.
    """

    engine: int
    here: float

    def at(self, engine: int) -> float:
        """Return when the *engine*'s clock shows that, on the loop clock."""
        return self.here + (engine - self.engine) / 1e6 + GRAIN

    def engine_at(self, here: float) -> int:
        """Return what the engine's clock shows at *here* on the loop clock; takes back what `at` has told."""
        return self.engine + round((here - GRAIN - self.here) * 1e6)
