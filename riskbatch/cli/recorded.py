"""The valid signals of a recorded feed, for commands that do not send them."""

import sys
from collections.abc import Iterator

from ..signals import RiskSignal
from .records import CHUNK, Feed, signals
from .terminal import Screen, counted, printable


def recorded(name: str) -> Iterator[RiskSignal]:
    """Yield the valid signals of the file *name*; a line on stderr says how many records are none."""
    feed, refused = Feed(None, name), 0
    with open(name, "rb") as file:
        chunks = iter(lambda: file.read(CHUNK), b"")
        for records in (*(feed.push(chunk) for chunk in chunks), feed.end()):
            for record in records:
                for found, _ in signals(record.value):
                    if isinstance(found, RiskSignal):
                        yield found
                    else:
                        refused += 1
    if refused:
        Screen(sys.stderr).say(f"{counted(refused, 'record')} of {printable(name)} left out: not a signal")
