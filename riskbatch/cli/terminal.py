"""
What the commands share: a terminal that is written to line by line, being told to stop, and how a process ends.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from .exits import INTERRUPTED, TERMINATED

_LONGEST = 2_000  # characters of a line that is written


class Stop:
    """
    A request to end, by a signal or a fault: the first ends in good order, the second at once.

    Attributes:
        why: What asked first.
        status: The exit status it stands for; 0 if nothing asked.
    """

    def __init__(self) -> None:
        self.asked: asyncio.Event = asyncio.Event()
        self.urged: asyncio.Event = asyncio.Event()
        self.why: str = ""
        self.status: int = 0

    def ask(self, why: str, status: int) -> None:
        """End for the reason *why*; later ones are passed over."""
        if not self.asked.is_set():
            self.why, self.status = why, status
            self.asked.set()

    def signal(self, number: int) -> None:
        """Take a signal: the first asks, the second urges, and the third is the system's again."""
        if self.asked.is_set():
            self.urged.set()
            signal.signal(number, signal.SIG_DFL)
        self.ask(*(("interrupted", INTERRUPTED) if number == signal.SIGINT else ("terminated", TERMINATED)))

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Listen to SIGINT and SIGTERM inside the block."""
        if threading.current_thread() is not threading.main_thread():  # which alone is told of signals
            yield
            return
        loop = asyncio.get_running_loop()

        def heard(number: int, _: object) -> None:
            loop.call_soon_threadsafe(self.signal, number)

        before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)

    async def unless(self, work: Coroutine[object, object, None]) -> bool:
        """Do *work* until it is done or a stop is asked for, and tell whether it was done; its faults are raised."""
        tasks = [asyncio.create_task(work), asyncio.create_task(self.asked.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]
        return results[0] is None


class Screen:
    """
    Whole lines, and on a terminal one more that is redrawn in place below them.

    Nothing is written to a stream that is closed or broken, and it is no error: sending goes on.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.tty: bool = stream is not None and stream.isatty()
        self._drawn = ""

    def width(self) -> int:
        """Return the columns that a line may have without wrapping: one less than the terminal's."""
        with suppress(OSError, ValueError, AttributeError):
            columns = os.get_terminal_size(self._stream.fileno()).columns  # type: ignore[union-attr]  # None: suppressed
            return (columns or 80) - 1
        return 79

    def say(self, text: str) -> None:
        """Write *text* as lines of their own; what it has from outside cannot steer the terminal."""
        lines = "\n".join(printable(line, _LONGEST) for line in text.split("\n"))
        self._write(f"{self._erased()}{lines}\n")

    def draw(self, line: str) -> None:
        """Put *line* in place of the one drawn before; nothing but carriage returns and spaces is needed for it."""
        line = printable(line, _LONGEST)[: self.width()]
        if line != self._drawn:
            self._write(f"{self._erased()}{line}")
            self._drawn = line

    def clear(self) -> None:
        """Take the drawn line away."""
        self._write(self._erased())

    def _erased(self) -> str:
        drawn, self._drawn = min(len(self._drawn), self.width()), ""
        return f"\r{' ' * drawn}\r" if drawn else ""

    def _write(self, text: str) -> None:
        if self._stream is None or not text:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # the reader has left
            # What could not be written stays in the buffer, and the interpreter would fail on it at the very end.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def because(error: OSError) -> str:
    """Return one line that says what the system refused."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)


def printable(text: str, most: int = 300) -> str:
    """
    Return *text* as one bounded line of printable characters.

    Every text from outside passes through here on its way to the terminal: what a feed, a server or the name of a file
    says must not steer it.
    """
    line = "".join(c if c.isprintable() else "?" for c in text[: most + 1])
    return line if len(line) <= most else f"{line[: most - 3]}..."


def duration(seconds: float) -> str:
    """Return *seconds* for people: `50 s`, `12 min`, `3 h`."""
    minutes, hours = seconds / 60, seconds / 3600
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 99.5 else f"{hours:.0f} h"


def counted(number: int, noun: str) -> str:
    """Return `1 record`, `2 records`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def fit(parts: list[str], width: int) -> str:
    """Join as many of *parts* as *width* has room for; the first is cut if it must be."""
    line = parts[0]
    for part in parts[1:]:
        if len(line) + 3 + len(part) <= width:
            line = f"{line} | {part}"
    return line[:width]
