"""
Whose turn it is to be probed: groups of signals, one of which was refused without Okta saying which.

Pure: no clock, no await. Each group is sent in a request of its own, beside the healthy traffic.
"""

from collections import deque
from collections.abc import Callable

from .receipts import Receipt
from .signals import RiskLevel

_PROBE_EVERY = 16  # batches, while suspects wait: half of a window's 30 requests
_RANK = {level: rank for rank, level in enumerate(RiskLevel)}


class Probes:
    """
    The groups of suspects that are ready, and their turns among other batches.

    Suspects rank by their level like all others, and take turns with their equals. But they cannot fill the free slots
    of another batch, so they are not passed over for ever.

    Args:
        is_waiting: Tells whether a suspect still waits here; the others were settled meanwhile.
    """

    def __init__(self, is_waiting: Callable[[Receipt], bool]) -> None:
        self._groups: dict[RiskLevel, deque[list[Receipt]]] = {level: deque() for level in RiskLevel}
        self._is_waiting = is_waiting
        self.probed_last: bool = False
        self.passed_over: int = 0  # batches since the last probe, while suspects waited

    def add(self, group: list[Receipt]) -> None:
        """Let *group*, which has one level, have its turn."""
        self._groups[group[0].signal.risk_level].append(group)

    @property
    def is_due(self) -> bool:
        """Whether suspects were passed over long enough to go before everybody."""
        return self.passed_over >= _PROBE_EVERY - 1

    def next(self, ready: RiskLevel | None) -> list[Receipt]:
        """Return the group that goes next if *ready* is the highest level in the lanes; none if the lanes do."""
        suspects = self._first()
        if not suspects or ready is None or self.is_due:
            return suspects
        level = suspects[0].signal.risk_level
        is_next = _RANK[level] < _RANK[ready] or (level is ready and not self.probed_last)
        return suspects if is_next else []

    def take(self, ready: RiskLevel | None) -> list[Receipt]:
        """Remove and return what `next` returns, and count the turn."""
        suspects = self.next(ready)
        self.probed_last = bool(suspects)
        if suspects:
            self.passed_over = 0
            self._groups[suspects[0].signal.risk_level].popleft()
        else:
            self.passed_over += bool(self._first())
        return suspects

    def _first(self) -> list[Receipt]:
        for groups in self._groups.values():
            while groups:
                groups[0] = [receipt for receipt in groups[0] if self._is_waiting(receipt)]
                if groups[0]:
                    return groups[0]
                groups.popleft()
        return []
