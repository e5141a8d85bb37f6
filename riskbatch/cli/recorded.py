"""The valid signals of a recorded feed, for commands that do not send them."""

import sys
from collections.abc import Iterator
from itertools import chain

from ..signals import RiskSignal
from .fields import Fields
from .records import Feed, from_rejected_line
from .source import READ
from .terminal import Screen, counted, printable


def recorded(name: str) -> Iterator[RiskSignal]:
    """Yield the valid signals of the file *name*; a line on stderr says how many records are none."""
    feed, fields, refused = Feed(None, name), Fields(), 0
    with open(name, "rb") as file:
        chunks = iter(lambda: file.read(READ), b"")
        for records in chain(map(feed.push, chunks), [feed.end()]):
            for record in filter(None, records):
                for found, _ in fields.signals(from_rejected_line(record).value):
                    if isinstance(found, RiskSignal):
                        yield found
                    else:
                        refused += 1
    if refused:
        Screen(sys.stderr).say(f"{counted(refused, 'record')} of {printable(name)} left out: not a signal")
