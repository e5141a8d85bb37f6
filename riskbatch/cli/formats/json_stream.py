"""
The elements of a JSON array, or objects one after another.

They are told apart by their brackets and quotes alone, and parsed one by one. So an element that is no JSON, or too
long to keep, does not stop the rest, and no byte is looked at more than a few times however the chunks are cut.
"""

import re
from collections.abc import Iterator

from .record import MAX_RECORD, Record, parsed, too_long, unread

_OUTSIDE = re.compile(rb"[^\s\xef\xbb\xbf]|\n")  # a byte order mark is no content
_STRUCTURE = re.compile(rb'["{}\[\],:\n]')
_STRING = re.compile(rb'["\\\n]')
_AFTER_STRING = re.compile(rb"[^ \t\r]")
_LINE_END = re.compile(rb"\n")
_NEXT = re.compile(rb"[{,\n]|[^{,\s]+")  # what to look at to find where the next element begins

_DEEPEST = 1000  # open brackets; the json module gives up there as well
_CLOSES = {b"]": b"[", b"}": b"{"}
_QUOTE = "not JSON: a quoted text is not closed where it should be"
_BRACKET = "not JSON: the brackets do not match"


class JsonStream:
    """
    Reads one stream.

    An element is given up at a newline inside a quoted text, at a text in the wrong place, and at a bracket that does
    not match. The next one begins at the next `{` that begins a line or follows a comma.
    """

    def __init__(self) -> None:
        self._kept = bytearray()  # the present element, without the space before it
        self._complete = True
        self._open: list[bytes] = []  # the brackets that are open, the array's included
        self._in_array = False
        self._last = b""  # the last mark of structure
        self._in_string = False
        self._after_string = False  # a quote was closed, and nothing followed it so far
        self._escaped = False  # the next byte follows a backslash
        self._is_junk = False  # what is kept stands outside of every array and object
        self._fault = ""  # why the present element was given up; the next is looked for
        self._line = 1
        self._begins = 1  # the line on which the present element begins

    @property
    def kept(self) -> int:
        """Bytes that wait for the rest of their element."""
        return len(self._kept)

    def push(self, chunk: bytes) -> Iterator[Record]:
        """Yield the elements that *chunk* completes."""
        begin = at = 0  # of the present element; of what was not looked at
        while at < len(chunk):
            if self._escaped:
                self._escaped = False
                at += chunk[at : at + 1] != b"\n"  # a newline ends the text, whatever stands before it
            found = self._pattern().search(chunk, at)
            if found is None:
                break
            token, start, at = found[0], found.start(), found.end()
            self._line += token == b"\n"
            if self._is_outside():
                begin = at if self._opens(token) else start
            elif self._is_next(token):
                self._keep(chunk[begin:start])
                yield from self._take(b"")
                begin = start
                self._open = [b"[", b"{"] if self._in_array else [b"{"]
                self._last = b"{"
            elif self._fault:
                self._last = token
            elif self._ends(token):
                is_last_byte = not (self._in_array or self._is_junk)
                self._keep(chunk[begin : at if is_last_byte else start])
                yield from self._take(token)
                begin = at
            elif self._fault and token == b"{":
                at = start  # the next element may begin with the bracket that shows the fault
        if not self._is_outside():
            self._keep(chunk[begin:])

    def end(self) -> Iterator[Record]:
        """Yield the last element if it is whole, and say so if it or the array was not closed."""
        if self._is_junk or self._fault:
            yield from self._take(b"")
        elif self._in_string or len(self._open) > self._in_array:
            why = "not JSON: the input ends before this does"
            yield unread(self._begins, self._kept, why) if self._complete else too_long(self._begins, self._kept)
        elif self._open:
            yield from self._take(b"")
            yield Record(self._line, "", "not JSON: the input ends before the array does", "not JSON: cut off")

    def _pattern(self) -> re.Pattern[bytes]:
        if self._fault:
            return _NEXT
        if self._in_string:
            return _STRING
        if self._is_junk:
            return _LINE_END
        if self._after_string:
            return _AFTER_STRING
        return _STRUCTURE if self._open else _OUTSIDE

    def _is_outside(self) -> bool:
        return not (self._open or self._is_junk or self._fault)

    def _opens(self, token: bytes) -> bool:
        """Follow a *token* outside of everything, and tell whether it is itself no part of an element."""
        self._begins = self._line
        self._in_array = token == b"["
        self._open = [token] if token in (b"[", b"{") else []
        self._is_junk = token not in (b"[", b"{", b"\n")
        self._last = token
        return token in (b"[", b"\n")

    def _ends(self, token: bytes) -> bool:
        """Follow *token*, and tell whether the present element ends with it."""
        if self._is_junk:
            return True
        if self._in_string:
            self._follow_string(token)
            return False
        if self._after_string and token not in b",:]}\n":
            self._give_up(_QUOTE, token)
            return False
        self._after_string = self._after_string and token == b"\n"
        return token != b"\n" and self._follow_structure(token)

    def _follow_string(self, token: bytes) -> None:
        if token == b"\n":
            self._give_up(_QUOTE, token)
        elif token == b"\\":
            self._escaped = True
        else:
            self._in_string, self._after_string = False, True

    def _follow_structure(self, token: bytes) -> bool:
        before, self._last = self._last, token
        if token == b'"':
            self._in_string = True
        elif token in (b"{", b"["):
            if self._open[-1] == b"{" and before != b":":
                self._give_up(_BRACKET, before)
            elif len(self._open) == _DEEPEST:
                self._give_up("not JSON: nested too deep", token)
            else:
                self._open.append(token)
        elif token in _CLOSES:
            if self._open[-1] != _CLOSES[token]:
                self._give_up(_BRACKET, token)
                return False
            self._open.pop()
            return not self._open
        return token == b"," and self._in_array and len(self._open) == 1

    # -- after a fault

    def _give_up(self, why: str, token: bytes) -> None:
        self._fault, self._last = why, token
        self._in_string = self._after_string = False

    def _is_next(self, token: bytes) -> bool:
        """Tell whether the element after one that was given up begins with *token*."""
        return bool(self._fault) and token == b"{" and self._last in (b",", b"\n")

    # -- what is kept

    def _keep(self, piece: bytes) -> None:
        if not self._kept:
            length = len(piece)
            text = piece.lstrip()
            self._begins += piece.count(b"\n", 0, length - len(text))
            piece = text
        room = MAX_RECORD - len(self._kept)
        self._complete = self._complete and len(piece) <= room
        self._kept += piece[:room]

    def _take(self, token: bytes) -> Iterator[Record]:
        text, line = bytes(self._kept).rstrip(), self._begins
        if self._fault:
            yield unread(line, text, self._fault) if self._complete else too_long(line, text)
        elif not self._complete:
            yield too_long(line, text)
        elif self._is_junk:
            yield unread(line, text, "not JSON: this stands outside of the array")
        elif text:
            yield parsed(line, text)
        elif token == b",":
            yield Record(line, "", "not JSON: there is nothing before the comma", "not JSON: nothing before a comma")
        self._kept.clear()
        self._complete, self._is_junk, self._fault, self._begins = True, False, "", self._line
