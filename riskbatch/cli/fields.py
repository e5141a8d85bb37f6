"""
Records to signals: which of their fields are read, and every fault of a record in one reason.

The library takes Okta's field names alone, and a message that Okta's rule allows. The command line also takes other
spellings of them, the names that `--fields` gives, a level for all, and messages to clean.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from attrs import field, frozen

from ..errors import ConfigurationError, InvalidSignal
from ..signals import RiskLevel, RiskSignal, clean_message, format_time
from .formats.record import place_of_records

_NAMES = ("ip", "riskLevel", "message", "timestamp", "expiresAt")
_SPELLINGS = {name.lower(): name for name in _NAMES} | {"risk_level": "riskLevel", "expires_at": "expiresAt"}
_EVENT = ("timestamp", "expiresAt")  # what a whole RiskEvent says for all of its subjects
_VALID = {"ip": "0.0.0.0", "riskLevel": "LOW", "message": None, "timestamp": None, "expiresAt": None}  # noqa: S104 - no socket


@frozen
class Refusal:
    """
    Why something is no signal.

    Attributes:
        reason: All its faults.
        kind: The same without its values: refusals of one kind are counted together.
    """

    reason: str
    kind: str


@frozen
class Fields:
    """
    How the fields of a record are read.

    Args:
        paths: Where Okta's fields are, by their Okta names; nothing else is read then. Without it, Okta's names and
            their snake_case spellings are known, in any case, and any other name is a fault.
        level: The level of a record that has none.
        clean: Whether `clean_message` is applied to messages.
    """

    paths: Mapping[str, str] = field(factory=dict)
    level: RiskLevel | None = None
    clean: bool = False

    def __attrs_post_init__(self) -> None:
        if self.paths and "riskLevel" not in self.paths and self.level is None:
            raise ConfigurationError("--fields names no riskLevel: add riskLevel=NAME, or --level for all records")

    # -- the header of a table

    def fault_of_header(self, names: list[str]) -> str:
        """Return what is wrong with a header of *names*; "" if nothing is."""
        found = [name for name in names if name]
        if self.paths:
            here = [name.lower() for name in found]
            missing = [path for path in self.paths.values() if here.count(path.lower()) != 1]
            return f"missing (or not there once): {_listed(missing)}; there are: {_listed(found)}" if missing else ""
        known = [_SPELLINGS.get(name.lower(), "") for name in found]
        unknown = [name for name, okta in zip(found, known, strict=True) if not okta]
        needed = ("ip",) if self.level else ("ip", "riskLevel")
        missing = [name for name in needed if name not in known]
        is_repeated = len(set(filter(None, known))) < len(list(filter(None, known)))
        if not (unknown or missing or is_repeated):
            return ""
        return (
            f"unknown: {_listed(unknown)}; missing: {_listed(missing)}. Known are {','.join(_NAMES)}; "
            f"--fields ip=COLUMN,riskLevel=COLUMN,message=COLUMN reads only the columns that it names, "
            f"and --level HIGH stands for a riskLevel"
        )

    # -- records

    def signals(self, value: object, now: datetime | None = None) -> Iterator[tuple[RiskSignal | Refusal, object]]:
        """
        Yield each signal of a record's *value*, or why there is none, with the part of the record that it stands for.

        A bad subject of a RiskEvent is refused alone. *now* is the timestamp of signals without one.
        """
        now = now or datetime.now(UTC)
        if isinstance(value, str) and self.level is not None:
            yield self._signal({"ip": value}, now), value
        elif not isinstance(value, dict):
            yield Refusal("signal is no JSON object with its fields", "no JSON object"), value
        elif self.paths:
            found = ((name, _look_up(value, path)) for name, path in self.paths.items())
            yield self._signal({name: each for name, each in found if each is not None}, now), value
        elif isinstance(value.get("subjects"), list) and value["subjects"]:
            yield from self._subjects(value, value["subjects"], now)
        else:
            flat, unknown = _known(value, _NAMES)
            place = place_of_records(json.dumps(value).encode()) if "ip" not in flat else ""
            yield Refusal(_OBJECT + place, _OBJECT + place) if place else self._signal(flat, now, unknown), value

    def _subjects(
        self, event: dict[str, object], subjects: list[object], now: datetime
    ) -> Iterator[tuple[RiskSignal | Refusal, object]]:
        others = {name: each for name, each in event.items() if name != "subjects"}
        shared, unknown = _known(others, _EVENT)
        for index, subject in enumerate(subjects):
            part = {**event, "subjects": [subject]}
            place = f"subjects[{index}]"
            if isinstance(subject, dict):
                flat, more = _known(subject, _NAMES[:3])
                names = [*unknown, *(f"{place}.{name}" for name in more)]
                yield self._signal({**flat, **shared}, now, names, f"{place}."), part
            else:
                yield Refusal(f"{place} is no JSON object", "a subject is no JSON object"), part

    def _signal(
        self, flat: dict[str, object], now: datetime, unknown: Iterable[str] = (), place: str = ""
    ) -> RiskSignal | Refusal:
        """Return the signal of *flat*, which has Okta's names, or all that is wrong with it."""
        fields = self._completed(flat, now)
        faults = [_unknown(names) for names in [list(unknown)] if names]
        for name in ("ip", "riskLevel"):
            if fields.get(name) is None:
                fault = f"{self._spelt(name, place)} is missing"
                faults.append(Refusal(fault, f"{self._spelt(name)} is missing{_LEVEL * (name == 'riskLevel')}"))
                fields[name] = _VALID[name]
        while True:
            try:
                signal = RiskSignal.from_json(fields)
                break
            except InvalidSignal as error:
                faults.append(self._told(error, place))
                fields[error.field] = _VALID[error.field]
        if not faults:
            return signal
        return Refusal("; ".join(each.reason for each in faults), "; ".join(each.kind for each in faults))

    def _completed(self, flat: dict[str, object], now: datetime) -> dict[str, object]:
        fields = dict(flat)
        level = fields.get("riskLevel")
        if isinstance(level, str):
            fields["riskLevel"] = level = level.strip().upper()
        if self.level is not None and level in (None, ""):
            fields["riskLevel"] = self.level.value
        message = fields.get("message")
        if self.clean and isinstance(message, str | int | float):
            fields["message"] = clean_message(str(message)) or None
        if fields.get("timestamp") is None:
            fields["timestamp"] = format_time(now)
        return fields

    def _told(self, error: InvalidSignal, place: str) -> Refusal:
        name = self._spelt(error.field, place)
        if error.field == "ip" and isinstance(error.value, str) and "/" in error.value:
            limit = "a single address: a network cannot be sent"
        elif error.field == "message":
            limit = f"{error.limit} (--clean-messages replaces the others)"
        else:
            limit = error.limit
        return Refusal(str(InvalidSignal(name, error.value, limit)), f"{self._spelt(error.field)} must be {limit}")

    def _spelt(self, name: str, place: str = "") -> str:
        """Return how the input calls Okta's field *name*, in the subject at *place*."""
        return self.paths.get(name) or (name if name in _EVENT else f"{place}{name}")


_OBJECT = "this object is no signal but has a list of objects; "
_LEVEL = " (--level gives one to all that have none)"


def _known(value: Mapping[str, object], names: Iterable[str]) -> tuple[dict[str, object], list[str]]:
    """Return what *value* has of *names*, by their Okta spelling, and what else it has."""
    known, unknown = {}, []
    for name, each in value.items():
        okta = _SPELLINGS.get(name.lower(), "")
        if okta in names and okta not in known:
            known[okta] = each
        else:
            unknown.append(name)
    return known, unknown


def _unknown(names: list[str]) -> Refusal:
    text = f"unknown fields: {_listed(names)} (--fields ip=NAME,riskLevel=NAME,... reads only what it names)"
    return Refusal(text, text)


def _listed(names: list[str]) -> str:
    text = ", ".join(names) or "none"
    return text if len(text) <= 300 else f"{text[:300]}..."


def _look_up(value: object, path: str) -> object:
    """Return what *path* leads to; a name may itself have dots in it, and letters of any case. None if nothing."""
    if not isinstance(value, dict):
        return None
    if path in value:
        return value[path]
    for name in (each for each in value if each.lower() == path.lower()):
        return value[name]
    for end in [place for place, letter in enumerate(path) if letter == "."]:
        if (found := _look_up(value.get(path[:end]), path[end + 1 :])) is not None:
            return found
    return None


def fields_of(text: str) -> dict[str, str]:
    """
    Return what `--fields` says: where each of Okta's fields is.

    Raises:
        ConfigurationError: It is no list of `ip=NAME` and others.
    """
    paths: dict[str, str] = {}
    for part in text.split(","):
        name, equals, path = (each.strip() for each in part.partition("="))
        okta = _SPELLINGS.get(name.lower())
        if not (equals and path and okta) or okta in paths:
            raise ConfigurationError(f"--fields {text!r}: give each of {', '.join(_NAMES)} at most once, as ip=NAME")
        paths[okta] = path
    if "ip" not in paths:
        raise ConfigurationError(f"--fields {text!r} does not say where the address is: ip=NAME")
    return paths
