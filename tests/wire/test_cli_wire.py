"""The command line against the emulator over loopback, in real processes where exit, signals or a terminal matter."""

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import sys
import termios
import time
from collections import Counter

import pytest

from riskbatch import cli
from riskbatch.cli import report, sending, source
from riskbatch.emulator import DEFAULT_TOKEN, Fault, OktaEmulator

pytestmark = pytest.mark.asyncio

LIMIT = ("--limit", "30/1s")
X = "\N{MULTIPLICATION SIGN}"


def scaled(**options) -> OktaEmulator:
    return OktaEmulator(limit=30, period=1.0, window="sliding", **options)


def environment(okta: OktaEmulator | None, **more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OKTA_CLIENT_")}
    org = {"OKTA_CLIENT_ORGURL": okta.url, "OKTA_CLIENT_TOKEN": okta.token} if okta else {}
    return clean | org | {"NO_PROXY": "*"} | more


@pytest.fixture
def org(monkeypatch):
    """Point this process's environment at an emulator."""

    def point(okta: OktaEmulator) -> None:
        for name, value in environment(okta).items():
            monkeypatch.setenv(name, value)

    return point


async def run(*argv: str) -> int:
    """Run the command beside the emulator, in a thread; fast, but without signals."""
    return await asyncio.wait_for(asyncio.to_thread(cli.main, [str(arg) for arg in argv]), 20)


async def spawn(okta: OktaEmulator | None, *argv: object, **options) -> asyncio.subprocess.Process:
    """Start the command as a process of its own."""
    env = environment(okta, **options.pop("env", {}))
    pipes = {"stdin": asyncio.subprocess.DEVNULL, "stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "riskbatch", *map(str, argv), env=env, **(pipes | options)
    )


async def ended(process: asyncio.subprocess.Process, seconds: float = 15) -> tuple[int, str, str]:
    """Return exit status, stdout and stderr."""
    try:
        out, err = await asyncio.wait_for(process.communicate(), seconds)
    except TimeoutError:
        process.kill()
        raise
    return process.returncode, (out or b"").decode(), (err or b"").decode()


async def until(condition, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the condition lies in another process
            await asyncio.sleep(0.01)


def signal_(number: int, level: str = "LOW", **more: object) -> dict[str, object]:
    return {"ip": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", "riskLevel": level, **more}


def lines(*records: object) -> str:
    return "".join(f"{record if isinstance(record, str) else json.dumps(record)}\n" for record in records)


def _number(ip: str) -> int:
    """Turn an address back to the number that `signal_` made it of."""
    _, a, b, c = map(int, ip.split("."))
    return a << 16 | b << 8 | c


def counts(report: str) -> dict[str, int]:
    """Read the table of a report."""
    names = "accepted|superseded|invalid|rejected|expired|kept|unsent|maybe sent"
    return {name: int(count) for count, name in re.findall(rf"^ +(\d+) ({names})\b", report, re.MULTILINE)}


# ------------------------------------------------------------------------------------------------ what is sent

RECORDS = [signal_(number, ("LOW", "MEDIUM", "HIGH")[number % 3]) for number in range(45)]
EVENT = {"timestamp": "2021-01-20T00:00:00.001Z", "expiresAt": "2099-01-01T00:00:00.000Z", "subjects": RECORDS}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("feed.jsonl", lines(*RECORDS)),
        ("feed", lines(*RECORDS)),
        ("feed.json", json.dumps(RECORDS)),
        ("feed.json", json.dumps(RECORDS, indent=2)),
        ("feed.json", json.dumps([EVENT])),
        ("feed.json", json.dumps(EVENT, indent=2)),
        ("feed.csv", "ip,riskLevel\n" + "".join(f"{r['ip']},{r['riskLevel']}\n" for r in RECORDS)),
        ("feed.txt", "\ufeffrisk_level,ip\r\n" + "".join(f"{r['riskLevel']},{r['ip']}\r\n" for r in RECORDS)),
    ],
)
async def test_every_format_is_sent_and_accepted_is_0(name, text, tmp_path, org, capsys):
    """All accepted: every signal is at the org once, HIGH first, and the exit status is 0."""
    (tmp_path / name).write_text(text)
    async with scaled() as okta:
        org(okta)
        assert await run("send", tmp_path / name, *LIMIT) == 0

        assert sorted(signal.ip for signal in okta.signals) == sorted(record["ip"] for record in RECORDS)
        assert [signal.risk_level for signal in okta.signals][:15] == ["HIGH"] * 15
    out, err = capsys.readouterr()
    assert out == ""
    assert counts(err) == {"accepted": 45}
    assert "\r" not in err
    assert "\x1b" not in err


async def test_a_long_feed_keeps_to_the_limit(tmp_path, org, capsys):
    """Reading, draining and the first try included: never more requests than --limit, though the org takes more."""
    (tmp_path / "feed").write_text(lines(*(signal_(number) for number in range(1000))))
    async with OktaEmulator(limit=60, period=1.0) as okta:
        org(okta)
        assert await run("send", tmp_path / "feed", *LIMIT, "--quiet") == 0

        assert len(okta.signals) == 1000
        assert okta.most_in_any_window(1.0) <= 30
    assert capsys.readouterr() == ("", "")


async def test_a_slow_pipe_is_sent_as_it_comes():
    """A line that comes is sent though the pipe stays open, and the silence between blocks nothing."""
    async with scaled() as okta:
        process = await spawn(okta, "send", "-", *LIMIT, stdin=asyncio.subprocess.PIPE)
        for number in range(3):
            process.stdin.write(lines(signal_(number, "HIGH")).encode())
            await until(lambda count=number + 1: len(okta.signals) == count)
        process.stdin.close()
        status, _, err = await ended(process)

    assert (status, counts(err)) == (0, {"accepted": 3})


async def test_options_reach_the_client(tmp_path, org):
    """Subjects share events, and a newer signal supersedes without counting as a failure."""
    time_ = {"timestamp": "2021-01-20T00:00:00.001Z"}
    (tmp_path / "feed").write_text(lines(*(signal_(number % 100, **time_) for number in range(200))))
    async with scaled() as okta:
        org(okta)
        argv = ("--subjects-per-event", "50", "--coalesce", "--org-url", okta.url, "--format", "jsonl")
        assert await run("send", tmp_path / "feed", *LIMIT, *argv) == 0

        assert (len(okta.requests), len(okta.signals)) == (1, 100)


async def test_memory_stays_flat_while_megabytes_are_read(tmp_path, org, monkeypatch):
    """A feed far larger than the capacity: reading waits, so that only what was just read is held beyond it."""
    time_ = {"timestamp": "2021-01-20T00:00:00.001Z"}
    text = lines(*(signal_(number, message="x" * 300, **time_) for number in range(6_000)))
    (tmp_path / "feed").write_text(text)
    held = []
    read = report.Report.read

    def spied(account, record, now):
        found = read(account, record, now)
        held.append(len(account._under_way))
        return found

    monkeypatch.setattr(sending, "CAPACITY", 1500)
    monkeypatch.setattr(report.Report, "read", spied)
    async with OktaEmulator(limit=30, period=1.0, latency=0.3) as okta:
        org(okta)
        assert await run("send", tmp_path / "feed", *LIMIT, "--subjects-per-event", "50", "--quiet") == 0

        assert len(okta.signals) == 6_000
    assert len(text) > 2_000_000
    assert 1500 < max(held) <= 1500 + source.READ // 300  # a lot waits for room


# ------------------------------------------------------------------------------------------------ what is not


async def test_what_is_not_accepted_can_be_mended_and_sent_again(tmp_path, org, capsys):
    """Each refused signal is in the file with line, reason and original; the rest gets through; exit status 1."""
    bad = signal_(66)
    event = {"subjects": [signal_(1), signal_(66), {"ip": "nonsense", "riskLevel": "LOW"}]}
    late = signal_(7, expiresAt="2020-01-01T00:00:00Z")
    (tmp_path / "feed").write_text(lines(signal_(0), "not json", event, bad, "", late, signal_(2)))
    async with scaled(poison=lambda signal: signal.ip == bad["ip"]) as okta:
        org(okta)
        assert await run("send", tmp_path / "feed", *LIMIT, "--rejected", tmp_path / "bad.jsonl") == 1

        assert sorted(_number(signal.ip) for signal in okta.signals) == [0, 1, 2]
        refused = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
        assert sorted((one["line"], one["outcome"], one["record"]) for one in refused) == [
            (2, "invalid", 2),
            (3, "invalid", 3),
            (3, "rejected", 3),
            (4, "rejected", 4),
            (6, "expired", 5),
        ]
        by_line = {(one["line"], one["outcome"]): one for one in refused}
        assert by_line[4, "rejected"]["original"] == bad
        assert by_line[4, "rejected"]["code"] == "E0000001"
        assert by_line[3, "rejected"]["original"] == {"subjects": [signal_(66)]}
        assert by_line[3, "invalid"]["reason"].startswith("subjects[2].ip is 'nonsense'")
        assert by_line[2, "invalid"]["original"] == "not json"
        assert counts(capsys.readouterr().err) == {"accepted": 3, "invalid": 2, "rejected": 2, "expired": 1}

        text = (tmp_path / "bad.jsonl").read_text()
        mended = text.replace("nonsense", "10.0.0.3").replace('"not json"', json.dumps(json.dumps(signal_(4))))
        (tmp_path / "bad.jsonl").write_text(mended.replace("10.0.0.66", "10.0.0.5").replace("2020-", "2099-"))
        assert await run("send", tmp_path / "bad.jsonl", *LIMIT) == 0

        assert sorted(_number(signal.ip) for signal in okta.signals) == [0, 1, 2, 3, 4, 5, 5, 7]


async def test_without_a_file_a_bounded_number_is_shown(tmp_path, org, capsys):
    """Thousands of bad lines do not flood the terminal, nor does what is in them steer it."""
    (tmp_path / "feed").write_text(lines(*['"\x1b[31m'] * 1000, signal_(1), {"\x1b[2J": 1}))
    async with scaled() as okta:
        org(okta)
        assert await run("send", tmp_path / "feed", "--format", "jsonl", *LIMIT) == 1

        assert len(okta.signals) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) < 20
    assert "line 1: not JSON" in err
    assert "\x1b" not in err
    assert counts(err) == {"accepted": 1, "invalid": 1001}


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["missing.jsonl"], "missing.jsonl: No such file"),
        (["."], "Is a directory"),
        (["feed", "--rejected", "no/such/dir"], "no/such/dir: No such file"),
        (["feed", "--rejected", "."], "Is a directory"),
        (["feed", "--rejected", "feed"], "is the file that is sent"),
        (["feed", "--org-url", "http://example.com"], "https://"),
        (["feed", "--org-url", "https://acme-admin.okta.com"], "-admin"),
        (["feed", "--subjects-per-event", "51"], "from 1 to 50"),
        (["table.csv"], "must name the columns"),
    ],
)
async def test_a_fault_is_one_line_and_nothing_is_sent(argv, reason, tmp_path, org, monkeypatch, capsys):
    """Configuration faults are found before anything is sent: exit status 2, one line, no traceback."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "feed").write_text(lines(signal_(1)))
    (tmp_path / "table.csv").write_text("1.1.1.1,HIGH\n")
    async with scaled() as okta:
        org(okta)
        assert await run("send", *argv) == 2

        assert okta.requests == []
    err = capsys.readouterr().err
    assert reason in err
    assert len(err.splitlines()) == 1
    assert DEFAULT_TOKEN not in err


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("OKTA_CLIENT_TOKEN", "", "OKTA_CLIENT_TOKEN is not set"),
        ("OKTA_CLIENT_TOKEN", "{token}", "placeholder"),
        ("OKTA_CLIENT_TOKEN", "se cret", "without spaces"),
        ("OKTA_CLIENT_ORGURL", "", "OKTA_CLIENT_ORGURL is not set"),
        ("OKTA_CLIENT_AUTHORIZATIONMODE", "Bearer", "SSWS or PrivateKey"),
    ],
)
async def test_the_environment_is_checked(name, value, reason, tmp_path, org, monkeypatch, capsys):
    (tmp_path / "feed").write_text(lines(signal_(1)))
    async with scaled() as okta:
        org(okta)
        monkeypatch.setenv(name, value)
        assert await run("send", tmp_path / "feed") == 2

    err = capsys.readouterr().err
    assert reason in err
    assert "se cret" not in err


async def test_an_org_that_takes_nothing_ends_the_run(tmp_path, org, capsys):
    """A wrong token is told at once, with what Okta says, instead of trying for ever; all is in the rejected file."""
    (tmp_path / "feed").write_text(lines(*(signal_(number) for number in range(100))))
    async with scaled(token_valid=False) as okta:
        org(okta)
        assert await run("send", tmp_path / "feed", "--rejected", tmp_path / "bad") == 2

        assert len(okta.requests) == 1
    assert "Invalid token provided" in capsys.readouterr().err
    assert Counter(json.loads(line)["outcome"] for line in (tmp_path / "bad").read_text().splitlines()) == {
        "unsent": 100
    }


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no full disk")
async def test_a_full_disk_stops_the_run(tmp_path, org, capsys):
    """What cannot be written to the rejected file is not lost in silence."""
    (tmp_path / "feed").write_text(lines("bad", signal_(1)))
    async with scaled() as okta:
        org(okta)
        assert await run("send", tmp_path / "feed", "--format", "jsonl", "--rejected", "/dev/full") == 1

    err = capsys.readouterr().err
    assert "No space left" in err
    assert "line 1: not JSON" in err


# ------------------------------------------------------------------------------------------------ stopping


async def test_ctrl_c_tells_exactly_what_was_sent_and_where_to_go_on(tmp_path):
    """What is accepted, what is in the rejected file, and what follows the last line read: together all, each once."""
    feed, bad = tmp_path / "feed", tmp_path / "bad"
    feed.write_text(lines(*(signal_(n, ("LOW", "HIGH")[n % 2]) for n in range(12_000))))
    async with scaled(latency=0.05) as okta:
        process = await spawn(okta, "send", feed, "--rejected", bad, *LIMIT)
        await until(lambda: len(okta.requests) >= 25)
        process.send_signal(signal.SIGINT)
        status, _, err = await ended(process)
        accepted = [_number(one.ip) for one in okta.signals]

    assert status == 130
    assert "Traceback" not in err
    table = counts(err)
    refused = [json.loads(line) for line in bad.read_text().splitlines()]
    stopped = int(re.search(r"stopped with the record on line (\d+)", err)[1])
    kept = [_number(one["original"]["ip"]) for one in refused]
    assert sorted(accepted + kept) == list(range(stopped))
    assert table == {"accepted": len(accepted), "unsent": len(kept)}
    assert {one["outcome"] for one in refused} == {"unsent"}
    assert f"{stopped} records read" in err


@pytest.mark.parametrize("ingest", [True, False])
async def test_a_second_ctrl_c_ends_at_once_and_says_what_may_have_been_sent(ingest, tmp_path):
    """A request without an answer is not called unsent; nor does its moment of grace hold anybody up."""
    feed = tmp_path / "feed"
    feed.write_text(lines(*(signal_(n) for n in range(100))))
    async with scaled() as okta:
        okta.faults += [Fault.hang(ingest=ingest)] * 9
        process = await spawn(okta, "send", feed, "--rejected", tmp_path / "bad", "--limit", "2/60s")
        await until(lambda: len(okta.requests) == 1)
        process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.1)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        status, _, err = await ended(process)

    assert status == 130
    assert time.monotonic() - began < 10  # the request would hang for 30
    assert counts(err) == {"accepted": 0, "unsent": 80, "maybe sent": 20}
    maybe = [json.loads(line) for line in (tmp_path / "bad").read_text().splitlines()]
    assert sum(one.get("may_have_arrived", False) for one in maybe) == 20


async def test_ctrl_c_lets_what_is_on_its_way_arrive(tmp_path):
    """A request that is answered within the moment of grace is accepted, not in doubt."""
    (tmp_path / "feed").write_text(lines(*(signal_(n) for n in range(20))))
    async with scaled(latency=0.5) as okta:
        process = await spawn(okta, "send", tmp_path / "feed")
        await until(lambda: len(okta.requests) == 1)
        process.send_signal(signal.SIGINT)
        status, _, err = await ended(process)

    assert (status, counts(err)) == (130, {"accepted": 20})
    assert "All of it is accepted" in err


async def test_a_silent_pipe_does_not_hold_up_the_end():
    """SIGTERM ends a run that waits for input; the status is the signal's."""
    async with scaled() as okta:
        process = await spawn(okta, "send", stdin=asyncio.subprocess.PIPE)
        process.stdin.write(lines(signal_(1, "HIGH")).encode())
        await until(lambda: okta.signals)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            await process.wait()
        _, _, err = await ended(process)

    assert process.returncode == 143
    assert counts(err) == {"accepted": 1}
    assert "Reading of standard input stopped with the record on line 1 " in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_feed_that_is_slow_to_read_can_be_stopped(number, tmp_path):
    """While a megabyte of open quotes is read, Ctrl-C and SIGTERM end the run at once."""
    (tmp_path / "feed.csv").write_bytes(b"ip,riskLevel\n10.0.0.1,HIGH\n" + b',x","\n' * 170_000)
    async with scaled() as okta:
        process = await spawn(okta, "send", tmp_path / "feed.csv", "--limit", "1/60s")
        await until(lambda: okta.signals)
        process.send_signal(number)
        began = time.monotonic()
        status, _, err = await ended(process)

    assert time.monotonic() - began < 5
    assert (status, counts(err)["accepted"]) == (128 + number, 1)


# ------------------------------------------------------------------------------------------------ the terminal


class Terminal:
    """A process whose stderr is a terminal of *columns*."""

    def __init__(self, columns: int) -> None:
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.set_blocking(self.master, False)
        self.text = ""

    async def read_until_closed(self) -> None:
        os.close(self.slave)
        with contextlib.suppress(OSError):  # EIO: the other side is gone
            while True:
                with contextlib.suppress(BlockingIOError):
                    self.text += os.read(self.master, 65536).decode()
                await asyncio.sleep(0.01)
        os.close(self.master)


@pytest.mark.parametrize("columns", [80, 40])
async def test_progress_on_a_terminal_is_one_line_that_fits(columns, tmp_path):
    """The line is redrawn in place, never wraps, and is gone at the end; no escape sequence is needed for it."""
    (tmp_path / "feed").write_text(lines(*(signal_(n, ("LOW", "HIGH")[n % 2]) for n in range(600))))
    terminal = Terminal(columns)
    async with scaled(latency=0.5) as okta:
        process = await spawn(okta, "send", tmp_path / "feed", "--limit", "20/1s", stderr=terminal.slave)
        async with asyncio.timeout(15):
            await terminal.read_until_closed()
            await process.wait()

    assert process.returncode == 0
    assert "\x1b" not in terminal.text
    progress, _, report = terminal.text.replace("\r\n", "\n").rpartition("\r")
    drawn = [line.rstrip() for line in progress.split("\r") if line.strip()]
    assert len(drawn) >= 2
    assert all(line.startswith("waiting ") and len(line) < columns for line in drawn)
    assert "\n" not in progress
    assert "accepted" in drawn[-1]
    if columns == 80:
        assert "left" in drawn[-1]
        assert "permits" in drawn[-1]
    assert counts(report) == {"accepted": 600}


async def test_without_a_terminal_progress_is_plain_lines(tmp_path, org, monkeypatch, capsys):
    (tmp_path / "feed").write_text(lines(*(signal_(n) for n in range(900))))
    monkeypatch.setattr(sending, "PLAIN_TICK", 0.25)
    async with scaled() as okta:
        org(okta)
        okta.faults += [Fault.unavailable()]
        assert await run("send", tmp_path / "feed", *LIMIT) == 0

    err = capsys.readouterr().err
    assert "\r" not in err
    assert "\x1b" not in err
    assert re.search(r"^riskbatch: waiting HIGH 0 MEDIUM 0 LOW \d+, \d+ accepted, .*\d+/30 permits", err, re.MULTILINE)


async def test_trouble_is_shown(tmp_path, org, monkeypatch, capsys):
    """Why it goes slowly is said in the server's words."""
    (tmp_path / "feed").write_text(lines(signal_(1)))
    monkeypatch.setattr(sending, "PLAIN_TICK", 0.0)
    monkeypatch.setattr(sending, "TICK", 0.01)
    async with scaled(latency=0.05) as okta:
        org(okta)
        okta.faults += [Fault.unavailable()] * 4
        assert await run("send", tmp_path / "feed", *LIMIT) == 0

    assert "slowed down: HTTP 503 E0000181: Service temporarily unavailable." in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ the process


async def test_the_module_is_the_command():
    status, out, err = await ended(await spawn(None, "--version"))

    assert (status, err) == (0, "")
    assert re.fullmatch(r"riskbatch \d+\.\d+\S*\n", out)


async def test_a_reader_that_left_before_the_help_is_no_traceback():
    read, write = os.pipe()
    os.close(read)
    process = await spawn(None, "--help", stdout=write, env={"PYTHONUNBUFFERED": ""})
    os.close(write)
    status, _, err = await ended(process)

    assert (status, err) == (141, "")


async def test_a_closed_stderr_stops_no_sending(tmp_path):
    """Progress is not worth the sending: its reader may leave."""
    (tmp_path / "feed").write_text(lines("bad", *(signal_(n) for n in range(40))))
    read, write = os.pipe()
    os.close(read)
    async with scaled() as okta:
        process = await spawn(okta, "send", tmp_path / "feed", "--format", "jsonl", *LIMIT, stderr=write)
        os.close(write)
        status, _, _ = await ended(process)

        assert (status, len(okta.signals)) == (1, 40)
