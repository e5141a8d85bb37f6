"""Records to signals: which fields are read, and every fault of a record in one reason."""

import json
import re

import pytest
from budget import budget
from hypothesis import given, settings
from test_records import json_values, read

import riskbatch as rb
from riskbatch.cli.fields import Fields, Refusal, fields_of
from riskbatch.cli.records import Record, from_rejected_line, refusal

examples = settings(max_examples=budget(15, 60), deadline=None)  # a busy machine is no failure
GOOD = {"ip": "203.0.113.7", "riskLevel": "HIGH"}


def only(value: object, fields: Fields | None = None) -> rb.RiskSignal | Refusal:
    """Return the one signal, or refusal, of *value*."""
    ((found, _),) = (fields or Fields()).signals(value)
    return found


def test_a_bad_subject_does_not_take_its_companions_down():
    """Of a RiskEvent the good subjects are sent and the bad one is named by its own place."""
    good = {"ip": "1.1.1.1", "riskLevel": "HIGH"}
    event = {"timestamp": "2021-01-20T00:00:00.001Z", "subjects": [good, {"ip": "x", "riskLevel": "LOW"}, good]}

    (first, _), (bad, part), (last, _) = Fields().signals(event)

    assert isinstance(first, rb.RiskSignal)
    assert isinstance(last, rb.RiskSignal)
    assert bad.reason.startswith("subjects[1].ip is 'x'")
    assert part == {**event, "subjects": [event["subjects"][1]]}


@pytest.mark.parametrize("value", [None, 1, "x", [], {}, {"subjects": []}, {"subjects": 1}, {"ip": "1.1.1.1", "x": 1}])
def test_what_is_no_signal_is_a_reason(value):
    ((reason, original),) = Fields().signals(value)

    assert isinstance(reason, Refusal)
    assert original == value


@examples
@given(json_values)
def test_a_refused_record_can_be_read_again(original):
    """A file of refused records is a feed: its lines give the originals back."""
    line = refusal(Record(7, original), 5, "rejected", "because", original, code="E1")

    assert "\n" not in line
    assert {"line": 7, "record": 5, "outcome": "rejected", "reason": "because", "code": "E1"}.items() <= json.loads(
        line
    ).items()
    (found,) = read(line.encode(), "jsonl")
    if not isinstance(original, str):
        assert from_rejected_line(found).value == original


def test_text_that_was_mended_in_place_is_read_again():
    line = refusal(Record(1, "x"), 1, "invalid", "not JSON", '{"ip": "1.1.1.1"}')

    assert from_rejected_line(read(line.encode())[0]).value == {"ip": "1.1.1.1"}


@pytest.mark.parametrize("value", [float("inf"), float("nan"), "\ud800"])
def test_a_refused_record_is_always_json(value):
    line = refusal(Record(1, value), 1, "invalid", "why", value)

    assert re.search("NaN|Infinity", line) is None
    json.loads(line)


# -- names


def test_okta_s_names_are_known_in_any_case_and_in_snake_case():
    """The library takes Okta's spelling alone; the command line takes those that exports have."""
    for value in ({"IP": "203.0.113.7", "risk_level": "high"}, {"Ip": "203.0.113.7", "RISKLEVEL": " HIGH "}):
        assert only(value).risk_level is rb.RiskLevel.HIGH
        with pytest.raises(rb.InvalidSignal):
            rb.RiskSignal.from_json(value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("src_ip", {"src_ip": "203.0.113.7"}),
        ("SRC_IP", {"src_ip": "203.0.113.7"}),
        ("a.b.c", {"a": {"b": {"c": "203.0.113.7"}}}),
        ("id.orig_h", {"id.orig_h": "203.0.113.7"}),  # as Zeek writes it
        ("a.b.c", {"a": {"b.c": "203.0.113.7"}}),
        ("a.b.c", {"a.b": {"c": "203.0.113.7"}, "a": 5}),
    ],
)
def test_a_field_is_found_by_its_name_or_by_dots(path, value):
    """What is not named is ignored, whatever it is."""
    fields = Fields({"ip": path}, rb.RiskLevel.LOW)

    assert only({**value, "riskLevel": "HIGH", "subjects": [1]}, fields).ip == "203.0.113.7"
    assert only({**value, "riskLevel": "HIGH"}, fields).risk_level is rb.RiskLevel.LOW


def test_a_fault_is_told_by_the_name_in_the_input():
    """Whoever reads the reason finds the place."""
    fields = Fields({"ip": "src_ip", "message": "alert.signature"}, rb.RiskLevel.LOW)

    assert only({"dest_ip": "1.1.1.1"}, fields).reason == "src_ip is missing"
    assert "src_ip is 'x'" in only({"src_ip": "x"}, fields).reason
    assert "alert.signature is 5" in only({"src_ip": "1.1.1.1", "alert": {"signature": 5}}, fields).reason


@pytest.mark.parametrize(
    "text", ["", "ip", "ip=", "=ip", "riskLevel=x", "ip=a,ip=b", "ip=a,colour=b", "ip=a,risk_level=b,riskLevel=c"]
)
def test_fields_that_say_nothing_are_refused(text):
    with pytest.raises(rb.ConfigurationError, match="--fields"):
        fields_of(text)


def test_fields_need_a_level_from_somewhere():
    """Otherwise no record could be a signal."""
    assert fields_of(" ip = a.b , risk_level = c ") == {"ip": "a.b", "riskLevel": "c"}
    with pytest.raises(rb.ConfigurationError, match="--level"):
        Fields(fields_of("ip=a"))


# -- levels, messages and times


def test_a_level_is_for_records_that_have_none():
    fields = Fields(level=rb.RiskLevel.LOW)

    assert only({"ip": "1.1.1.1"}, fields).risk_level is rb.RiskLevel.LOW
    assert only({"ip": "1.1.1.1", "riskLevel": None}, fields).risk_level is rb.RiskLevel.LOW
    assert only({"ip": "1.1.1.1", "riskLevel": "medium"}, fields).risk_level is rb.RiskLevel.MEDIUM
    assert only("1.1.1.1", fields).ip == "1.1.1.1"
    event = {"subjects": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.2", "riskLevel": "HIGH"}]}
    assert [found.risk_level.value for found, _ in fields.signals(event)] == ["LOW", "HIGH"]


def test_messages_are_cleaned_only_where_asked():
    bad = {**GOOD, "message": "caf\u00e9: 5 failures, (SSH)"}

    assert "--clean-messages" in only(bad).reason
    assert only(bad, Fields(clean=True)).message == "cafe- 5 failures SSH"
    assert only({**GOOD, "message": "(:)"}, Fields(clean=True)).message is None
    assert only({**GOOD, "message": 5}, Fields(clean=True)).message == "5"


def test_signals_without_a_time_share_the_one_that_is_given():
    """So that they can share an event, which has one timestamp."""
    from datetime import UTC, datetime

    now = datetime(2026, 1, 1, tzinfo=UTC)
    event = {"subjects": [GOOD, GOOD]}
    found = [each for value in (GOOD, {**GOOD, "timestamp": None}, event) for each, _ in Fields().signals(value, now)]

    assert {each.timestamp for each in found} == {now}


# -- reasons


def test_all_faults_of_a_record_are_in_one_reason():
    """So that a record need not be mended five times."""
    value = {"ip": "x", "riskLevel": "NONE", "message": "a,b", "timestamp": "y", "expiresAt": 5, "colour": 1}
    found = only(value)

    for name in (
        "ip is 'x'",
        "riskLevel is 'NONE'",
        "message is 'a,b'",
        "timestamp is 'y'",
        "expiresAt is 5",
        "colour",
    ):
        assert name in found.reason
    assert "'x'" not in found.kind
    assert "ip is missing; riskLevel is missing" in only({}).reason


def test_a_network_is_refused_by_that_word():
    found = only({"ip": "203.0.113.0/24", "riskLevel": "LOW"})

    assert "a network cannot be sent" in found.reason
    assert "203.0.113" not in found.kind


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"data": [{"ip": "1.1.1.1"}]}, ".data"),
        ({"took": 1, "hits": {"total": {"value": 1}, "hits": [{"_source": {"x": [{}]}}]}}, ".hits.hits"),
        ({"meta": {"links": [{"a": 1}]}, "Records": [{"a": 1}]}, ".Records"),
        ({"the list": [{"a": 1}]}, '.["the list"]'),
    ],
)
def test_an_object_that_holds_records_says_where_they_seem_to_be(value, path):
    assert f"seem to be in {path}: jq -c '{path}[]' FILE | riskbatch send -" in only(value).reason


def test_a_name_from_the_input_cannot_end_the_quotes_of_the_command():
    """What a reader copies into a shell is one word."""
    import shlex

    reason = only({"x'; rm -rf ~; '": [{"a": 1}]}).reason
    command = reason.split(": ", 1)[1].removesuffix(" FILE | riskbatch send -")

    assert len(shlex.split(command)) == 3


def test_a_header_is_told_what_is_unknown_and_what_is_missing():
    fault = Fields().fault_of_header(["IP Address", "Risk Level", "message", ""])

    assert "unknown: IP Address, Risk Level; missing: ip, riskLevel" in fault
    assert "--fields" in fault
    assert Fields(level=rb.RiskLevel.LOW).fault_of_header(["IP"]) == ""
    assert "missing (or not there once): src_ip; there are: a, b" in Fields(
        {"ip": "src_ip"}, rb.RiskLevel.LOW
    ).fault_of_header(["a", "b"])


@examples
@given(json_values)
def test_whatever_comes_is_a_signal_or_a_refusal(value):
    """Nothing else escapes, with any way of reading."""
    for fields in (Fields(), Fields({"ip": "a.b"}, rb.RiskLevel.LOW, True)):
        for found, _ in fields.signals(value):
            assert isinstance(found, rb.RiskSignal | Refusal)
