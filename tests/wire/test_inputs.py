"""Files that people have, through the real command line against the emulator."""

import json
from pathlib import Path

import pytest
from test_cli_wire import LIMIT, counts, environment, run, scaled

INPUTS = Path(__file__).parent.parent / "data" / "inputs"
CROWDSEC = ("--fields", "ip=value,message=reason", "--clean-messages", "--level", "HIGH")
TWO = ["203.0.113.7", "203.0.113.8"]


def numbered(count: int) -> list[str]:
    return [f"203.0.113.{number}" for number in range(1, count + 1)]


# the file, its options, and the addresses that arrive
EXPORTS = [
    ("real_ipsum.txt", ("--level", "MEDIUM"), numbered(8)),
    ("real_blocklistde_imap.txt", ("--level", "HIGH"), numbered(6)),
    ("real_firehol_feodo.ipset", ("--level", "high"), numbered(4)),
    ("real_crowdsec_decisions.csv", CROWDSEC, numbered(5)),
    ("real_crowdsec_decisions.json", CROWDSEC, numbered(5)),
    ("real_feodo_ipblocklist.csv", ("--fields", "ip=dst_ip", "--level", "HIGH"), numbered(2)),
    (
        "real_google_workspace_login.log",
        ("--fields", "ip=ipAddress,timestamp=id.time", "--level", "MEDIUM"),
        numbered(2),
    ),
    (
        "real_suricata_eve.json",
        (
            "--fields",
            "ip=src_ip,message=alert.signature,timestamp=timestamp",
            "--clean-messages",
            "--level",
            "HIGH",
        ),
        numbered(1),
    ),
    ("real_shadowserver_smb.csv", ("--fields", "ip=ip", "--level", "LOW"), numbered(3)),
    (
        "real_abuseipdb_bulk_report.csv",
        ("--fields", "ip=IP,message=Comment", "--clean-messages", "--level", "HIGH"),
        numbered(2),
    ),
    ("array_named.jsonl", (), TWO),
    ("array1_named.jsonl", (), TWO),
    ("jq_without_c.json", (), ["203.0.113.9", "198.51.100.7"]),
    ("jq_without_c.jsonl", (), ["203.0.113.9", "198.51.100.7"]),
    ("jsonl_named.csv", (), ["203.0.113.7", "203.0.113.7"]),
    ("excel_semicolon.csv", (), TWO),
    ("tabs.tsv", (), TWO),
    ("pipes.txt", (), TWO),
    ("header_caps.csv", (), TWO),
    ("spaces.csv", (), TWO),
    ("trailing_commas.csv", (), TWO),
    ("trailing_commas2.csv", (), TWO),
    ("short_rows.csv", (), TWO),
    ("sep_line.csv", (), TWO),
    ("comments.csv", (), TWO[:1]),
    ("comments2.csv", (), TWO[:1]),
    ("cr.csv", (), TWO),
    ("dupkeys.jsonl", (), TWO[1:]),  # the last of equal names counts, as in all JSON of Python
    ("ok.csv", (), TWO),
    ("bom.csv", (), TWO),
    ("crlf.csv", (), TWO),
    ("blank_first.csv", (), TWO[:1]),
    ("header_only.csv", (), []),
    ("header_quoted.csv", (), TWO[:1]),
    ("empty.csv", (), []),
    ("csv_named.json", (), TWO),
]


@pytest.fixture
def org(monkeypatch):
    def point(okta):
        for name, value in environment(okta).items():
            monkeypatch.setenv(name, value)

    return point


@pytest.mark.parametrize(("name", "options", "ips"), EXPORTS, ids=[row[0] for row in EXPORTS])
async def test_an_export_goes_through_as_it_is(name, options, ips, org, capsys):
    """Every record is a signal at the org, and the exit status is 0."""
    async with scaled(latency=0) as okta:
        org(okta)
        status = await run("send", INPUTS / name, *options, *LIMIT)

        assert (status, counts(capsys.readouterr().err)) == (0, {"accepted": len(ips)})
        assert sorted(each.ip for each in okta.signals) == sorted(ips)


# the file, what arrives, and words of the reasons
PARTLY = [
    ("nulls.jsonl", 1, ("timestamp is ''",)),
    ("nul.csv", 1, ("riskLevel is 'HIGH\\x00'",)),
    ("backslash.csv", 1, ("behind its closing quote",)),
    ("cp1252.csv", 1, ("not UTF-8", "iconv")),
    ("excel_date.csv", 0, ("timestamp is '01.01.2026 13:37'", "ISO 8601")),
    ("quote.csv", 1, ("message is", "--clean-messages")),
    ("real_abuseipdb_blacklist.json", 0, ("in .data: jq -c '.data[]' FILE | riskbatch send -",)),
    ("wrapper.json", 0, ("in .data: jq -c '.data[]' FILE | riskbatch send -",)),
]


@pytest.mark.parametrize(("name", "accepted", "words"), PARTLY, ids=[row[0] for row in PARTLY])
async def test_bad_records_are_refused_and_good_ones_accepted(name, accepted, words, org, capsys):
    """The reason is in words, and the exit status is 1."""
    async with scaled(latency=0) as okta:
        org(okta)
        status = await run("send", INPUTS / name, *LIMIT)
        err = capsys.readouterr().err

        assert (status, counts(err)["accepted"], len(okta.signals)) == (1, accepted, accepted)
    assert all(word in err for word in words)


# the file and words of the error
UNREADABLE = [
    ("header_words.csv", ("unknown: IP Address, Risk Level, Comment, Date", "missing: ip, riskLevel", "--fields")),
    ("extra_column.csv", ("unknown: country", "missing: none", "--fields")),
    ("feed.csv.gz", ("gzip", "zcat FILE | riskbatch send -")),
    ("feed.jsonl.gz", ("gzip", "zcat FILE | riskbatch send -")),
    ("feed.jsonl.bz2", ("bzip2", "bzcat FILE | riskbatch send -")),
    ("feed.jsonl.xz", ("xz", "xzcat FILE | riskbatch send -")),
    ("feed.jsonl.zst", ("zstd", "zstdcat FILE | riskbatch send -")),
    ("feed.zip", ("ZIP", "unzip -p FILE | riskbatch send -")),
    ("xlsx_named.csv", ("workbook", "save the workbook as CSV")),
    ("utf16.txt", ("UTF-16", "iconv -f UTF-16 -t UTF-8 FILE | riskbatch send -")),
    ("utf16le_nobom.csv", ("UTF-16", "iconv -f UTF-16LE -t UTF-8 FILE | riskbatch send -")),
    ("syslog_prefix.log", ("text before each JSON object", "sed 's/^[^{]*//' FILE | riskbatch send -")),
    ("real_ipsum.txt", ("list of addresses", "--level")),
]


@pytest.mark.parametrize(("name", "words"), UNREADABLE, ids=[row[0] for row in UNREADABLE])
async def test_what_cannot_be_read_says_what_to_type(name, words, org, capsys):
    """One line, exit status 2, and nothing is sent."""
    async with scaled(latency=0) as okta:
        org(okta)
        assert await run("send", INPUTS / name) == 2

        assert okta.requests == []
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert all(word in err for word in words)


async def test_networks_are_refused_by_that_word_and_grouped(org, capsys):
    """A list of networks sends nothing, and its refusals are one line of the report."""
    async with scaled() as okta:
        org(okta)
        assert await run("send", INPUTS / "real_spamhaus_drop.txt", "--level", "HIGH") == 1
        assert okta.requests == []
    err = capsys.readouterr().err
    assert counts(err) == {"accepted": 0, "invalid": 2}
    assert "invalid, 2 times: ip must be a single address: a network cannot be sent; the first on line 5" in err


async def test_messages_and_times_come_through(org):
    """What --fields names is what Okta gets, cleaned where asked."""
    async with scaled(latency=0) as okta:
        org(okta)
        options = ("--fields", "ip=src_ip,message=alert.signature,timestamp=timestamp", "--clean-messages")
        assert await run("send", INPUTS / "real_suricata_eve.json", *options, "--level", "HIGH", *LIMIT) == 0
        (signal,) = okta.signals
    assert signal.message == "GPL ATTACK_RESPONSE id check returned root"
    assert signal.timestamp == "2021-01-27T00:28:11.488Z"


async def test_refused_records_can_be_sent_again_by_the_same_options(org, tmp_path):
    """The originals in --rejected are those of the input, so that --fields finds them."""
    bad = tmp_path / "bad.jsonl"
    text = (INPUTS / "real_crowdsec_decisions.csv").read_text().replace("203.0.113.2,", "203.0.113.2/8,")
    (tmp_path / "feed.csv").write_text(text)
    async with scaled(latency=0) as okta:
        org(okta)
        assert await run("send", tmp_path / "feed.csv", *CROWDSEC, *LIMIT, "--rejected", bad) == 1
        assert json.loads(bad.read_text())["original"]["value"] == "203.0.113.2/8"
        bad.write_text(bad.read_text().replace("203.0.113.2/8", "203.0.113.2"))
        assert await run("send", bad, *CROWDSEC, *LIMIT) == 0
        assert sorted(each.ip for each in okta.signals) == numbered(5)
