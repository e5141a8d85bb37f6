"""What `demo` and `emulate` share: lines on stdout, in colour where it is wanted, and what a request carries."""

import json
import os
from collections.abc import Mapping
from typing import TextIO

from .exits import PIPE_BROKEN
from .terminal import Stop

_TIMES = "\N{MULTIPLICATION SIGN}"
_COLOURS = {"HIGH": "1;31", "MEDIUM": "33", "LOW": "2"}  # SGR codes: bold red, yellow, faint


class Printer:
    """Writes lines; in colour on a terminal, unless NO_COLOR is set (no-color.org) or the terminal is dumb."""

    def __init__(self, stream: TextIO | None, stop: Stop) -> None:
        self._stream = stream
        self._stop = stop
        is_terminal = stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
        self._has_colour = is_terminal and not os.environ.get("NO_COLOR")

    def say(self, text: str = "") -> None:
        """Write *text*; if the reader has closed the output, ask for the end."""
        try:
            print(text, file=self._stream, flush=True)
        except BrokenPipeError:
            self._stop.ask("nobody reads", PIPE_BROKEN)
        except UnicodeEncodeError:  # a terminal without the multiplication sign
            print(text.replace(_TIMES, "x").encode("ascii", "replace").decode(), file=self._stream, flush=True)

    def level(self, name: str, text: str) -> str:
        """Return *text* in the colour of the level."""
        return f"\x1b[{_COLOURS[name]}m{text}\x1b[0m" if self._has_colour and name in _COLOURS else text

    def mix(self, levels: Mapping[str, int], width: int) -> str:
        """Return the count of each level there is, filled up to *width* columns."""
        parts = [(name, f"{name}{_TIMES}{levels[name]}") for name in _COLOURS if levels.get(name)]
        plain = " ".join(text for _, text in parts) or "-"
        return (" ".join(self.level(*part) for part in parts) or "-") + " " * (width - len(plain))


def subjects(body: bytes | None) -> list[tuple[str, str]]:
    """Return `(ip, level)` of each signal in a payload; nothing if *body* is no payload."""
    try:
        events = json.loads(body or b"")
        return [(str(subject["ip"]), str(subject["riskLevel"])) for event in events for subject in event["subjects"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []
