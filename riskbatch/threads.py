"""What another thread may wait for: an answer that the event loop gives, and that never lets it wait for ever."""

import asyncio
import concurrent.futures
import os
from time import monotonic
from typing import TypeVar

from .errors import ClientClosed, WrongLoop

T = TypeVar("T")

_LOOK = 1.0  # seconds between two looks whether the loop that owes the answer is still there


class Answer(concurrent.futures.Future[T]):
    """
    A `concurrent.futures.Future` whose answer comes from *loop*.

    `result()` and `exception()` wait as those of any such future do, in every thread but that of *loop*, where the
    wait would be for oneself: use `await asyncio.wrap_future(answer)` there.

    Raises:
        WrongLoop: Waiting for it on its own loop, or in a forked process, where nothing will ever answer.
        ClientClosed: The loop was closed without an answer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._process = os.getpid()

    def result(self, timeout: float | None = None) -> T:
        """Return the answer, or raise what it is, after at most *timeout* seconds (`TimeoutError`)."""
        self._wait(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the exception that is the answer, if it is one, after at most *timeout* seconds (`TimeoutError`)."""
        self._wait(timeout)
        return super().exception(0)

    def _wait(self, timeout: float | None) -> None:
        deadline = None if timeout is None else monotonic() + timeout
        while not self.done():
            self._check_that_it_may_come()
            left = _LOOK if deadline is None else min(_LOOK, deadline - monotonic())
            if left <= 0:
                return
            concurrent.futures.wait([self], left)

    def _check_that_it_may_come(self) -> None:
        if runs_here(self._loop):
            raise WrongLoop("waiting here would stop the event loop that is to answer: await asyncio.wrap_future(...)")
        if os.getpid() != self._process:
            raise WrongLoop("the client belongs to the process that opened it, and this is a fork of that")
        if self._loop.is_closed() and not self.done():
            raise ClientClosed("the event loop of the client was closed before it answered")


def runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether this is *loop*'s own thread, in one of its turns."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
