"""Records out of bytes: every format, any chunks, whatever is wrong with them."""

import csv
import io
import json

import pytest
from budget import budget
from hypothesis import given, settings
from hypothesis import strategies as st

import riskbatch as rb
from riskbatch.cli.fields import Fields
from riskbatch.cli.records import MAX_RECORD, MAX_ROW, Feed, Record, Unreadable

CHUNK = 16 * 1024
examples = settings(max_examples=budget(15, 60), deadline=None)  # a busy machine is no failure


def read(data: bytes, form: str | None = None, name: str = "", cuts: list[int] | None = None) -> list[Record]:
    """Push *data* through a feed, cut at *cuts*."""
    feed = Feed(form, name)
    found = []
    places = sorted(cuts or [])
    for start, stop in zip([0, *places], [*places, len(data)], strict=True):
        found += feed.push(data[start:stop])
    return list(filter(None, [*found, *feed.end()]))


def values(records: list[Record]) -> list[object]:
    assert [record.error for record in records] == [None] * len(records)
    return [record.value for record in records]


# ------------------------------------------------------------------------------------------------ any chunks

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
objects = st.lists(st.dictionaries(st.text(), json_values, max_size=4), max_size=6)


def cut(data: st.DataObject, text: bytes) -> list[int]:
    return data.draw(st.lists(st.integers(0, len(text)), max_size=12))


@examples
@given(st.data(), st.lists(json_values, max_size=6), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_an_array_gives_the_same_elements_wherever_the_chunks_are_cut(data, array, indent, escaped):
    """Any records, any chunk boundaries, on one line or pretty-printed: the same records."""
    text = json.dumps(array, indent=indent, ensure_ascii=escaped).encode(errors="replace")

    assert json.loads(text) == values(read(text, cuts=cut(data, text)))


@examples
@given(st.data(), objects, st.sampled_from(["\n", "\r\n", "\n\n"]), st.booleans())
def test_lines_give_the_same_objects_wherever_the_chunks_are_cut(data, lines, end, mark):
    """Any records, any chunk boundaries, with or without a byte order mark: the same records."""
    text = b"\xef\xbb\xbf" * mark + end.join(json.dumps(line) for line in lines).encode()

    assert lines == values(read(text, "jsonl", cuts=cut(data, text)))


@examples
@given(st.data(), objects.filter(all), st.sampled_from([1, 4]))
def test_objects_one_after_another_need_no_lines(data, found, indent):
    """What `jq .` prints is read as well, wherever the chunks are cut."""
    text = "\n".join(json.dumps(one, indent=indent) for one in found).encode()

    assert found == values(read(text, cuts=cut(data, text)))


cells = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=8).filter(lambda c: c == c.strip())


@examples
@given(
    st.data(), st.lists(st.tuples(cells.filter(str.strip), cells, cells), max_size=6), st.sampled_from(["\n", "\r\n"])
)
def test_rows_are_what_the_csv_module_wrote_wherever_the_chunks_are_cut(data, rows, end):
    """Any rows, quoted line breaks included, any chunk boundaries: the same records."""
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([("ip", "riskLevel", "message"), *rows])
    text = buffer.getvalue().encode()

    found = values(read(text, "csv", cuts=cut(data, text)))

    expected = [dict(zip(("ip", "riskLevel", "message"), row, strict=True)) for row in rows]
    assert [{name: cell for name, cell in row.items() if cell} for row in expected] == found


junk_text = st.text('[]{}",:\\\n\r \t1a;', max_size=60).map(str.encode)


@examples
@given(st.data(), st.binary(max_size=200) | junk_text, st.sampled_from(["json", "jsonl", "csv"]))
def test_any_bytes_are_records_or_reasons(data, junk, form):
    """Any input is records, reasons, or refused as a whole; where the chunks are cut changes nothing."""
    junk = b"ip,riskLevel\n" + junk if form == "csv" else junk

    assert outcome(junk, form) == outcome(junk, form, cut(data, junk))


def outcome(junk: bytes, form: str, cuts: list[int] | None = None) -> str:
    try:
        return repr(read(junk, form, cuts=cuts))
    except Unreadable as error:
        return str(error)


# ------------------------------------------------------------------------------------------------ bad records


def test_a_bad_element_does_not_stop_the_rest():
    """An array's element that is no JSON is refused alone, with its line."""
    found = read(b'[{"a": 1},\n {"b": oops},\n\n {"c": "}]\\","}, , [2], 1 2]')

    assert [(record.line, record.error is None) for record in found] == [
        (1, True),
        (2, False),
        (4, True),
        (4, False),
        (4, True),
        (4, False),
    ]
    assert found[1].value == '{"b": oops}'


def test_a_bad_line_does_not_stop_the_rest():
    """A line that is no JSON, no UTF-8, NaN or too deep is refused alone, with its number."""
    bad = [b"oops", b'"\xff"', b"NaN", b"[" * 100_000, b'{"a":']
    found = read(b'{"a": 1}\n' + b"\n".join(bad) + b'\n\n{"b": 2}')

    assert [record.line for record in found] == [1, 2, 3, 4, 5, 6, 8]
    assert [record.value for record in found if record.error is None] == [{"a": 1}, {"b": 2}]
    assert "not UTF-8: byte 2 is 0xff" in str(found[2].error)


def test_a_bad_row_does_not_stop_the_rest():
    """A row with too many fields, or with a quote that is never closed, is refused alone."""
    found = read(b'ip,riskLevel,message\n1,2,3,4\n1,HIGH,"x\n2,LOW,\n3,"LOW"x,\n4,LOW,ok\n')

    assert [(record.line, record.error is None) for record in found] == [
        (2, False),
        (3, False),
        (4, True),
        (5, False),
        (6, True),
    ]


def test_a_quote_that_is_never_closed_swallows_no_more_than_a_bounded_row():
    """After some kilobytes the line with the quote is given up, and those behind it are read."""
    rows = [f"10.0.{i // 256}.{i % 256},LOW" for i in range(5000)]
    feed = Feed("csv")
    found = list(filter(None, feed.push("\n".join(["ip,riskLevel", 'x,"HIGH', *rows, ""]).encode())))

    assert [record.line for record in found if record.error] == [2]
    assert len(found) == 5001


def test_a_line_break_in_a_quoted_field_starts_no_record():
    """What an attacker puts into a message cannot pass for a signal of its own."""
    found = read(b'ip,riskLevel,message\n1.1.1.1,LOW,"a\n2.2.2.2,HIGH,\nb"\n')

    assert values(found) == [{"ip": "1.1.1.1", "riskLevel": "LOW", "message": "a\n2.2.2.2,HIGH,\nb"}]


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b'[{"a": 1}, {"b"', "before this does"), (b'[{"a": 1}', "before the array does"), (b"[1]\nx", "outside")],
)
def test_a_feed_that_was_cut_off_says_so(data, reason):
    found = read(data)

    assert found[0].error is None
    assert reason in str(found[-1].error)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff\xfei\x00p\x00", "UTF-16"),
        (b"1.2.3.4,HIGH\n", "must name the columns"),
        (b"ip,riskLevel,colour\n", "must name the columns"),
        (b"ip,riskLevel,risk_level\n", "each once"),
        (b'ip,"riskLevel\n', "cannot be the header"),
        (b"hello\n", "must name the columns"),
    ],
)
def test_a_feed_that_is_something_else_is_refused_as_a_whole(data, reason):
    """Nothing is guessed from a file that is no feed."""
    with pytest.raises(Unreadable, match=reason):
        read(data)


# ------------------------------------------------------------------------------------------------ bounds


@pytest.mark.parametrize(
    ("form", "begin", "between", "end"),
    [("jsonl", b"", b"\n", b""), ("json", b"[", b",", b"]"), ("csv", b"ip,riskLevel\n", b"\n", b"")],
)
def test_what_is_kept_is_bounded_however_long_a_record_is(form, begin, between, end):
    """A record of many megabytes is refused with a clear reason, and never more than one bound of it is kept."""
    good = b"10.0.0.1,LOW" if form == "csv" else b'{"ip": "10.0.0.1", "riskLevel": "LOW"}'
    feed, found, most = Feed(form), [], 0
    chunks = [begin, good, between, b'{"ip": "', *[b"x" * CHUNK] * 200, b'"}', between, good, end]
    for chunk in chunks:
        found += filter(None, feed.push(chunk))
        most = max(most, feed.kept)
    found += filter(None, feed.end())

    assert most <= MAX_RECORD + MAX_ROW
    assert [None, f"longer than {MAX_RECORD} bytes", None] == [record.error for record in found]
    assert found[1].cut
    assert len(str(found[1].value)) <= 1000


@pytest.mark.parametrize("form", ["jsonl", "json", "csv"])
def test_a_feed_of_megabytes_is_never_held(form):
    """While a megabyte passes through, no more is kept than the chunk that is being read."""
    line = {"jsonl": b'{"ip": "10.0.0.1"}\n', "json": b'{"ip": "10.0.0.1"},', "csv": b"10.0.0.1,LOW\n"}[form]
    feed, count, most = Feed(form), 0, 0
    list(feed.push({"jsonl": b"", "json": b"[", "csv": b"ip,riskLevel\n"}[form]))
    text = line * (CHUNK // len(line) * 16)
    for _ in range(4):
        for start in range(0, len(text), CHUNK):
            count += len(list(filter(None, feed.push(text[start : start + CHUNK]))))
            most = max(most, feed.kept)

    assert most <= len(line)
    assert count == 4 * len(text) // len(line)


# ------------------------------------------------------------------------------------------------ formats


@pytest.mark.parametrize(
    ("data", "name", "form"),
    [
        (b' \n[{"a"', "", "json"),
        (b'{"a": 1}\n', "x.json", "jsonl"),
        (b'{\n "a": 1\n}', "x.json", "json"),
        (b"\xef\xbb\xbfip,riskLevel\n", "", "csv"),
        (b"oops\n", "x.jsonl", "jsonl"),
        (b"oops\n", "x.NDJSON", "jsonl"),
        (b"", "", "jsonl"),
        (b'{"a"', "", "jsonl"),
    ],
)
def test_the_format_is_seen_from_name_and_content(data, name, form):
    feed = Feed(None, name)
    list(feed.push(data))
    list(feed.end())

    assert form == feed.form


def test_both_spellings_of_a_column_are_read():
    (found,) = read(b"RISK_LEVEL,Ip,expires_at\nhigh,1.1.1.1,2099-01-01T00:00:00Z\n")
    ((signal, _),) = Fields().signals(found.value)

    assert isinstance(signal, rb.RiskSignal)
    assert (signal.ip, signal.risk_level.value, signal.expires_at.year) == ("1.1.1.1", "HIGH", 2099)


@pytest.mark.parametrize(
    "line",
    [
        b"1.1.1.1",
        b"1.1.1.1\t10",
        b"1.1.1.1 ; x",
        b"1.1.1.1#4#2#x",
        b'"1.1.1.1"',
        b"1.1.1.1,10",
        b"1.1.1.1;x",
        b"\xef\xbb\xbf1.1.1.1 \xff",
    ],
)
def test_what_follows_an_address_in_a_list_is_ignored(line):
    """The output of jq -r, awk and mlr is a feed, and so are block lists with scores and comments."""
    feed = Feed(None, "x.csv", Fields(level=rb.RiskLevel.LOW))
    text = b"# about\n\n; more\n" + line + b"\n#\n2001:DB8::1\r\n10.0.0.0/8"
    found = list(filter(None, [*feed.push(text), *feed.end()]))

    assert [(record.line, record.value["ip"]) for record in found] == [
        (4, "1.1.1.1"),
        (6, "2001:DB8::1"),
        (7, "10.0.0.0/8"),
    ]


def test_a_row_without_a_header_is_no_list_unless_there_is_a_level_for_all():
    """The level in it would be ignored."""
    with pytest.raises(Unreadable, match="must name the columns"):
        read(b"1.1.1.1,HIGH\n")


@pytest.mark.parametrize("comment", [b"#", b";"])
def test_a_row_that_begins_with_an_empty_cell_is_no_comment(comment):
    """With `;` between the cells, only `#` begins a comment."""
    found = read(b"timestamp;ip;riskLevel\n" + comment + b"1.1.1.1;LOW\n")

    assert [record.value for record in found] == [{"ip": "1.1.1.1", "riskLevel": "LOW"}] * (comment == b";")


def test_a_list_of_comments_alone_is_an_empty_feed():
    assert read(b"# nothing today\n; really\n") == []
