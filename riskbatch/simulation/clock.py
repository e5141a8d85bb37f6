"""A clock that jumps: an event loop on which an hour without work passes at once."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class _JumpingSelector(selectors.SelectSelector):
    """Moves the clock to the next timer where other selectors wait for it. There is no I/O to wait for."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("the simulation waits for something that can never happen")
        # Each turn takes a nanosecond, as on a real clock. Otherwise a timer that rounds to now would come for ever.
        self.now += max(1e-9, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with the clock that jumps."""

    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        """Return the virtual seconds since the loop was made."""
        return self._clock.now


def run_virtually(main: Coroutine[Any, Any, _T]) -> _T:
    """Run *main* on a virtual clock that begins at 0."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
