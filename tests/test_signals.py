"""What is valid for Okta, at every edge of its published schema."""

import copy
import json
import pickle
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from ipaddress import IPv4Address, IPv6Address, IPv6Interface, ip_address

import pytest
from budget import budget
from hypothesis import given, settings
from hypothesis import strategies as st

from riskbatch import InvalidSignal, RiskbatchError, RiskLevel, RiskSignal, clean_message, parse_signals
from riskbatch.signals import format_time

profile = settings(max_examples=budget(30, 150), deadline=None, derandomize=True)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ALLOWED = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .-_"


class Text(str):
    """A str subclass, as enums and lazy translations are."""

    __slots__ = ()


def refusal(*args, **kwargs):
    with pytest.raises(InvalidSignal) as caught:
        RiskSignal(*args, **kwargs)
    return caught.value


def refusal_of(obj):
    with pytest.raises(InvalidSignal) as caught:
        list(parse_signals(obj))
    return caught.value


# -- ip


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("0.0.0.0", "0.0.0.0"),
        ("255.255.255.255", "255.255.255.255"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("2001:0db8:0000:0000:0000:0000:0000:0001", "2001:db8::1"),
        ("::", "::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:C000:0201", "192.0.2.1"),
        (IPv4Address("203.0.113.7"), "203.0.113.7"),
        (IPv6Address("2001:DB8::1"), "2001:db8::1"),
        (Text("203.0.113.7"), "203.0.113.7"),
    ],
)
def test_an_address_is_kept_in_canonical_text(given, canonical):
    """Two spellings of one address are one address, also for coalescing."""
    signal = RiskSignal(given, "LOW")
    assert signal.ip == canonical
    assert json.loads(json.dumps(signal.ip)) == canonical


@pytest.mark.parametrize(
    "ip",
    [
        "",
        " 203.0.113.7",
        "203.0.113.7 ",
        "203.0.113.7\n",
        "203.0.113.7\x00",
        "203.0.113.07",
        "203.0.113",
        "203.0.113.256",
        "203.0.113.7.1",
        "0xcb.0.113.7",
        "3405803783",
        "203.0.113.7/32",
        "203.0.113.7:443",
        "203,0,113,7",
        "٢٠٣.0.113.7",
        "2001:db8::1/64",
        "fe80::1%eth0",
        "[2001:db8::1]",
        "2001:db8::1::1",
        "::1\n",
        "::1\x00",
        "\ud800",
        "localhost",
        b"203.0.113.7",
        3405803783,
        None,
        True,
        ["203.0.113.7"],
        {"ip": "203.0.113.7"},
        IPv6Address("fe80::1%eth0"),
        IPv6Interface("2001:db8::1/64"),
    ],
)
def test_what_is_no_single_address_is_refused(ip):
    """Ranges, zones, ports, other spellings and other types are no address for Okta."""
    error = refusal(ip, "LOW")
    assert error.field == "ip"
    assert str(error).startswith("ip is ")
    assert str(error).endswith("it must be an IPv4 or IPv6 address without prefix length or zone")


@given(st.ip_addresses())
@profile
def test_every_address_is_taken_and_means_the_same(address):
    """Whatever `ipaddress` can say is valid, as object and as text, and parses back to itself."""
    signal = RiskSignal(address, "LOW")
    assert ip_address(signal.ip) == (getattr(address, "ipv4_mapped", None) or address)
    assert RiskSignal(str(address), "LOW").ip == RiskSignal(address.exploded, "LOW").ip == signal.ip


# -- level


def test_a_level_is_given_as_enum_or_by_its_exact_name():
    """Okta has three levels, in upper case; the order of definition is the order of sending."""
    assert [RiskSignal("::1", name).risk_level for name in ("HIGH", "MEDIUM", "LOW")] == list(RiskLevel)
    assert [RiskSignal("::1", level).risk_level for level in RiskLevel] == list(RiskLevel)
    assert [level.value for level in RiskLevel] == ["HIGH", "MEDIUM", "LOW"]
    assert RiskSignal("::1", Text("HIGH")).risk_level is RiskLevel.HIGH


@pytest.mark.parametrize("level", ["high", "High", " HIGH", "HIGH\n", "NONE", "", "__class__", "name", None, 0, 1, True,
                                   b"HIGH", ["HIGH"], {"HIGH": 1}, object()])  # fmt: skip
def test_no_other_level_exists(level):
    """What is not exactly a level is refused, not guessed."""
    error = refusal("::1", level)
    assert (error.field, error.value) == ("risk_level", level)
    assert "HIGH, MEDIUM or LOW" in str(error)


# -- message


@pytest.mark.parametrize("message", [None, "", ALLOWED, "x" * 512, " ", Text("x")])
def test_a_valid_message_is_kept_as_it_is(message):
    """Up to 512 characters of the allowed set, none at all, or no message."""
    assert RiskSignal("::1", "LOW", message=message).message == message


@pytest.mark.parametrize(
    "message",
    ["x" * 513, "x\n", "\n", "a,b", "a:b", "a/b", "a'b", 'a"b', "(a)", "a@b", "a+b", "a\tb", "a\x00b", "é", "٣",
     "\uff41", "\u00a0", "\ud800", "😀", b"x", 5, True, ["x"], {}],
)  # fmt: skip
def test_a_message_that_the_schema_refuses_is_refused(message):
    """One character too many, or one outside the set, is an error that says which limit."""
    error = refusal("::1", "LOW", message=message)
    assert (error.field, error.value) == ("message", message)
    assert "at most 512 characters of a-z A-Z 0-9 space . - _" in str(error)


@given(st.text(max_size=20))
@profile
def test_a_message_is_valid_if_all_its_characters_are(message):
    """The set is the published pattern, character by character."""
    if set(message) <= set(ALLOWED):
        assert RiskSignal("::1", "LOW", message=message).message == message
    else:
        assert refusal("::1", "LOW", message=message).field == "message"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("GPL ATTACK_RESPONSE id check returned root", "GPL ATTACK_RESPONSE id check returned root"),
        ("50% of logins, (SSH) failed!", "50 of logins SSH failed"),
        ("Z\u00fcrich \u2014 Cr\u00e8me br\u00fbl\u00e9e", "Zurich - Creme brulee"),
        ("https://example.com/a/b", "https-example.com-a-b"),
        ("crowdsecurity/ssh-bf", "crowdsecurity-ssh-bf"),
        ("a\n\t b\x00", "a b"),
        ("\u4e2d\u6587 \U0001f600", ""),
        ("\ud800x", "x"),
        ("", ""),
        ("x" * 600, "x" * 512),
        ("ab " * 300, ("ab " * 300)[:512].rstrip()),
    ],
)
def test_a_cleaned_message_keeps_what_okta_allows(text, message):
    """Accents lose their marks, other characters become a space or a hyphen, and runs of these collapse."""
    assert clean_message(text) == message


@given(st.text(max_size=700))
@profile
def test_whatever_is_cleaned_is_a_valid_message(text):
    """No text is refused once it is cleaned, and to clean it twice changes nothing."""
    cleaned = clean_message(text)
    assert RiskSignal("::1", "LOW", message=cleaned).message == cleaned
    assert clean_message(cleaned) == cleaned


def test_to_clean_a_huge_text_costs_no_time():
    """Only so much of it is looked at as a message could come from."""
    assert clean_message("a" + " " * 5000 + "b") == "a"
    assert clean_message("(" * 10_000_000) == ""


# -- times


def test_times_are_written_in_utc_with_milliseconds():
    """`yyyy-MM-ddTHH:mm:ss.SSSZ` is the one form that Okta documents; finer digits are cut."""
    zone = timezone(timedelta(hours=5, minutes=30))
    signal = RiskSignal(
        "::1",
        "LOW",
        timestamp=datetime(2021, 1, 20, 5, 30, 0, 1999, zone),
        expires_at=datetime(2021, 1, 20, 5, 30, tzinfo=zone),
    )
    assert signal.timestamp == datetime(2021, 1, 20, 0, 0, 0, 1999, UTC)
    assert signal.timestamp.tzinfo is UTC
    assert signal.expires_at.tzinfo is UTC
    assert signal.to_json()["timestamp"] == "2021-01-20T00:00:00.001Z"
    assert signal.to_json()["expiresAt"] == "2021-01-20T00:00:00.000Z"


@given(st.datetimes(timezones=st.just(UTC)))
@profile
def test_every_written_time_has_the_documented_pattern(time):
    """The pattern holds from the year 1 to 9999, and loses less than a millisecond."""
    text = format_time(time)
    assert datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC) == time.replace(
        microsecond=time.microsecond // 1000 * 1000
    )
    assert len(text) == len("2021-01-20T00:00:00.001Z")


def test_a_timestamp_is_now_if_none_is_given():
    """A signal without a timestamp was seen when it was made."""
    before = datetime.now(UTC)
    signal = RiskSignal("::1", "LOW")
    assert before <= signal.timestamp <= datetime.now(UTC)
    assert signal.expires_at is None


class Nowhere(tzinfo):
    """A zone that does not know its offset, which makes a datetime naive."""

    def utcoffset(self, _):
        return None


LATE, EARLY = timezone(timedelta(hours=14)), timezone(-timedelta(hours=12))


@pytest.mark.parametrize("name", ["timestamp", "expires_at"])
@pytest.mark.parametrize(
    "time",
    [
        NOON.replace(tzinfo=None),
        NOON.replace(tzinfo=Nowhere()),
        datetime.max.replace(tzinfo=EARLY),
        datetime.min.replace(tzinfo=LATE),
        "2021-01-20T00:00:00.001Z",
        1767268800,
        1767268800.5,
        NOON.date(),
        NOON.time(),
    ],
)
def test_a_time_must_be_aware_and_fit(name, time):
    """A naive time is ambiguous, and one that overflows in UTC cannot be sent."""
    error = refusal("::1", "LOW", **{name: time})
    assert (error.field, error.value) == (name, time)
    assert "an aware datetime" in str(error)


@pytest.mark.parametrize("time", [datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)])
def test_the_first_and_the_last_instant_are_valid(time):
    """The edges of datetime are in."""
    assert RiskSignal("::1", "LOW", timestamp=time, expires_at=time).timestamp == time


# -- the object


def test_a_signal_is_a_value():
    """Frozen, slotted, equal by value, hashable, and picklable."""
    signal = RiskSignal("203.0.113.7", "HIGH", message="x", timestamp=NOON, expires_at=NOON)
    same = RiskSignal("203.0.113.7", RiskLevel.HIGH, message="x", timestamp=NOON, expires_at=NOON)
    assert signal == same
    assert hash(signal) == hash(same)
    assert signal != RiskSignal("203.0.113.8", "HIGH", message="x", timestamp=NOON, expires_at=NOON)
    assert pickle.loads(pickle.dumps(signal)) == copy.copy(signal) == copy.deepcopy(signal) == signal
    assert pickle.loads(pickle.dumps(signal)).risk_level is RiskLevel.HIGH
    assert not hasattr(signal, "__dict__")
    for name, value in (("ip", "::1"), ("message", None), ("other", 1)):
        with pytest.raises(AttributeError):
            setattr(signal, name, value)


def test_all_but_address_and_level_are_named():
    """A message cannot slip into the place of another field."""
    with pytest.raises(TypeError):
        RiskSignal("::1", "LOW", "message")


# -- json


EXAMPLE = {
    "timestamp": "2021-01-20T00:00:00.001Z",
    "subjects": [
        {"ip": "6.7.6.7", "riskLevel": "MEDIUM"},
        {"ip": "1.1.1.1", "riskLevel": "HIGH", "message": "Detected Attack tools"},
    ],
}
WHEN = datetime(2021, 1, 20, 0, 0, 0, 1000, UTC)


def test_the_example_of_oktas_documentation_is_valid_input():
    """A whole RiskEvent gives a signal for each of its subjects."""
    assert list(parse_signals(EXAMPLE)) == [
        RiskSignal("6.7.6.7", "MEDIUM", timestamp=WHEN),
        RiskSignal("1.1.1.1", "HIGH", message="Detected Attack tools", timestamp=WHEN),
    ]
    later = "2021-01-21T00:00:00.001Z"
    signals = list(parse_signals({**EXAMPLE, "expiresAt": later}))
    assert {signal.expires_at for signal in signals} == {WHEN + timedelta(days=1)}


def test_a_flat_object_gives_one_signal():
    """The flat form is what `to_json` writes."""
    flat = {"ip": "1.1.1.1", "riskLevel": "HIGH", "message": "x", "timestamp": EXAMPLE["timestamp"]}
    assert list(parse_signals(flat)) == [RiskSignal.from_json(flat)]
    assert RiskSignal.from_json(flat).to_json() == flat
    assert RiskSignal.from_json({"ip": "::1", "riskLevel": "LOW"}).to_json().keys() == {"ip", "riskLevel", "timestamp"}


def test_subjects_of_an_event_without_a_time_share_one():
    """What came as one event has one timestamp, so that it can leave as one event."""
    stream = parse_signals({"subjects": EXAMPLE["subjects"]})
    first = next(stream)
    while datetime.now(UTC) == first.timestamp:
        pass
    assert next(stream).timestamp == first.timestamp


def test_null_is_absent_where_a_field_may_be():
    """`null` for an optional field means that there is none."""
    nulls = {"message": None, "timestamp": None, "expiresAt": None}
    signal = RiskSignal.from_json({"ip": "::1", "riskLevel": "LOW", **nulls})
    assert signal.message is None
    assert signal.expires_at is None


valid = st.builds(
    RiskSignal,
    st.ip_addresses(),
    st.sampled_from(RiskLevel),
    message=st.none() | st.text(ALLOWED, max_size=512),
    timestamp=st.datetimes(timezones=st.just(UTC)).map(lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000)),
    expires_at=st.none() | st.datetimes(timezones=st.just(UTC)).map(lambda t: t.replace(microsecond=0)),
)


@given(valid)
@profile
def test_json_and_back_is_the_same_signal(signal):
    """`from_json` reads what `to_json` writes, through real JSON, without loss at milliseconds."""
    assert RiskSignal.from_json(json.loads(json.dumps(signal.to_json()))) == signal


FLAT = {"ip": "1.1.1.1", "riskLevel": "HIGH"}


@pytest.mark.parametrize(
    ("obj", "field", "value"),
    [
        ({"riskLevel": "HIGH"}, "ip", None),
        ({"ip": "1.1.1.1"}, "riskLevel", None),
        ({**FLAT, "ip": None}, "ip", None),
        ({**FLAT, "riskLevel": "high"}, "riskLevel", "high"),
        ({**FLAT, "message": "a\n"}, "message", "a\n"),
        ({**FLAT, "risk_level": "HIGH"}, "risk_level", "HIGH"),
        ({**FLAT, "expires_at": None}, "expires_at", None),
        ({**FLAT, 5: "x"}, "5", "x"),
        ({**FLAT, None: "x"}, "None", "x"),
        ({**FLAT, "timestamp": "yesterday"}, "timestamp", "yesterday"),
        ({**FLAT, "timestamp": "2021-01-20T00:00:00.001"}, "timestamp", "2021-01-20T00:00:00.001"),
        ({**FLAT, "timestamp": "0001-01-01T00:00:00+14:00"}, "timestamp", "0001-01-01T00:00:00+14:00"),
        ({**FLAT, "expiresAt": 1611100800}, "expiresAt", 1611100800),
        ({**FLAT, "expiresAt": "9999-12-31T23:59:59-12:00"}, "expiresAt", "9999-12-31T23:59:59-12:00"),
        ([FLAT], "signal", [FLAT]),
        ("x", "signal", "x"),
        (None, "signal", None),
        (EXAMPLE | {"subjects": []}, "subjects", []),
        (EXAMPLE | {"subjects": None}, "subjects", None),
        (EXAMPLE | {"subjects": FLAT}, "subjects", FLAT),
        (EXAMPLE | {"subjects": [FLAT, 5]}, "subjects[1]", 5),
        (EXAMPLE | {"subjects": [{"ip": "1.1.1.1"}]}, "subjects[0].riskLevel", None),
        (EXAMPLE | {"subjects": [FLAT, FLAT, {**FLAT, "ip": "x"}]}, "subjects[2].ip", "x"),
        (EXAMPLE | {"subjects": [FLAT | {"message": "é"}]}, "subjects[0].message", "é"),
        (EXAMPLE | {"subjects": [FLAT | {"timestamp": "x"}]}, "subjects[0].timestamp", "x"),
        (EXAMPLE | {"subjects": [FLAT | {"subjects": []}]}, "subjects[0].subjects", []),
        (EXAMPLE | {"timestamp": "x"}, "timestamp", "x"),
        (EXAMPLE | {"expiresAt": "x"}, "expiresAt", "x"),
        (EXAMPLE | {"ip": "1.1.1.1"}, "ip", "1.1.1.1"),
    ],
)
def test_an_error_names_the_field_as_it_was_written_and_its_value(obj, field, value):
    """Whoever reads the error finds the place in the input."""
    error = refusal_of(obj)
    assert (error.field, error.value) == (field, value)
    if "subjects" not in (obj or ""):
        with pytest.raises(InvalidSignal):
            RiskSignal.from_json(obj)


def test_an_unknown_field_is_told_the_known_ones():
    """A typo is an error that shows the right spelling, not a field that is lost in silence."""
    assert "known fields are ip, riskLevel, message, timestamp, expiresAt" in str(refusal_of({**FLAT, "risklevel": 1}))
    assert "known fields are subjects, timestamp, expiresAt" in str(refusal_of({**EXAMPLE, "message": "x"}))
    nested = EXAMPLE | {"subjects": [FLAT | {"expiresAt": EXAMPLE["timestamp"]}]}
    assert str(refusal_of(nested)).endswith("known fields are ip, riskLevel, message")


def test_a_missing_field_is_called_missing():
    """A required field that is not there must be present, says the error."""
    assert str(refusal_of({"ip": "::1"})) == "riskLevel is None; it must be present"


def test_signals_before_the_bad_one_are_yielded():
    """An event with one bad subject gives those before it, then the error."""
    stream = parse_signals(EXAMPLE | {"subjects": [FLAT, {**FLAT, "ip": "x"}]})
    assert next(stream).ip == "1.1.1.1"
    with pytest.raises(InvalidSignal):
        next(stream)


@pytest.mark.parametrize("time", ["2021-01-20T00:00:00Z", "2021-01-20T01:00:00+01:00", "2021-01-19T23:00:00.000-01:00"])
def test_times_with_any_zone_are_read(time):
    """Input may have any ISO 8601 zone and precision; what is sent has Okta's form."""
    signal = RiskSignal.from_json({**FLAT, "timestamp": time})
    assert signal.to_json()["timestamp"] == "2021-01-20T00:00:00.000Z"


huge = st.builds(pow, st.just(10), st.just(5000))  # too long for str()
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4)
    | huge | st.sampled_from(["1.1.1.1", "HIGH", EXAMPLE["timestamp"], Text("1.1.1.1"), Text("HIGH"), b"1.1.1.1"])
)  # fmt: skip
keys = st.sampled_from(["ip", "riskLevel", "message", "timestamp", "expiresAt", "subjects", Text("ip")])
odd_keys = keys | st.none() | st.booleans() | st.integers() | st.text(max_size=5) | huge
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_keys, inner, max_size=4), max_leaves=12
)
nearly = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("ip", "riskLevel", "message", "timestamp", "expiresAt", "subjects"), anything),
)


@given(anything | nearly | st.fixed_dictionaries({"subjects": st.lists(nearly, max_size=3)}))
@settings(max_examples=budget(80, 400), deadline=None, derandomize=True)
def test_whatever_comes_is_a_signal_or_an_invalid_signal(obj):
    """Arbitrary input gives signals or `InvalidSignal` with a readable text; nothing else escapes."""
    for read in (lambda: [RiskSignal.from_json(obj)], lambda: list(parse_signals(obj))):
        try:
            signals = read()
        except InvalidSignal as error:
            refused = str(error)
        else:
            assert all(RiskSignal.from_json(signal.to_json()).ip == signal.ip for signal in signals)
            continue
        assert refused.isprintable()
        assert len(refused) < 500


# -- the error


def test_an_invalid_signal_is_an_error_of_ours_and_a_value_error():
    """It has the field, the value and the limit as attributes, and survives pickling and copying."""
    error = refusal("::1", "LOW", message="x\n")
    assert isinstance(error, RiskbatchError)
    assert isinstance(error, ValueError)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is InvalidSignal
        assert (twin.field, twin.value, twin.limit) == ("message", "x\n", error.limit)
        assert str(twin) == str(error)
    assert str(error) == r"message is 'x\n'; it must be at most 512 characters of a-z A-Z 0-9 space . - _"


HUGE = pytest.param(10**5000, id="huge")  # too long for str()


class Unshowable:
    """Raises when it is shown."""

    def __repr__(self):
        raise RuntimeError


def nest(depth):
    inner = []
    for _ in range(depth):
        inner = [inner]
    return inner


@pytest.mark.parametrize("value", ["x" * 10_000, HUGE, nest(100_000), Unshowable(), "\x1b[31m\n\ud800"])
def test_an_error_is_one_short_printable_line_whatever_the_value(value):
    """A stranger's input can neither flood nor forge a log, nor break the error itself."""
    for error in (refusal(value, "LOW"), refusal_of({**FLAT, "message": value}), refusal_of({"x": value})):
        assert str(error).isprintable()
        assert len(str(error)) < 300


@pytest.mark.parametrize("key", ["x\nERROR forged", "x" * 10_000, HUGE, "\x1b[31m"])
def test_an_error_is_one_short_printable_line_whatever_the_key(key):
    """Nor can the name of an unknown field."""
    error = refusal_of({**FLAT, key: 1})
    assert str(error).isprintable()
    assert len(str(error)) < 400


def test_a_long_value_is_cut_and_its_length_told():
    """The error says how much was left out."""
    assert str(refusal("x" * 513, "LOW")).startswith(f"ip is '{'x' * 99}… (515 characters); it must be")
