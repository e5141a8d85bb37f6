"""`riskbatch demo` and `riskbatch emulate`, in processes of their own where signals, pipes or a shell matter."""

import asyncio
import io
import json
import os
import re
import signal
import stat
import sys
import time
from pathlib import Path

import pytest

import riskbatch as rb
from riskbatch import cli
from riskbatch.cli import demo, printer, terminal
from riskbatch.emulator import OktaEmulator

pytestmark = pytest.mark.asyncio

LIMIT = ("--limit", "30/1s")
QUICKLY = (*LIMIT, "--latency", "0", "--window", "sliding")
X = "\N{MULTIPLICATION SIGN}"


def environment() -> dict[str, str]:
    """This process's variables, without any that name an org."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OKTA_CLIENT_")}
    return clean | {"NO_PROXY": "*"}


async def spawn(*argv: object) -> asyncio.subprocess.Process:
    """Start `riskbatch` as a process of its own."""
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "riskbatch", *map(str, argv))
    return await asyncio.create_subprocess_exec(*command, env=environment(), stdout=pipe, stderr=pipe)


async def in_a_shell(exports: list[str], command: str) -> tuple[int, str, str]:
    """Paste *exports* into a shell, run `riskbatch` *command* there, and return exit status, stdout and stderr."""
    script = "".join(exports) + f"exec {sys.executable} -m riskbatch {command}"
    pipe = asyncio.subprocess.PIPE
    return await ended(
        await asyncio.create_subprocess_exec("sh", "-c", script, env=environment(), stdout=pipe, stderr=pipe)
    )


async def ended(process: asyncio.subprocess.Process, seconds: float = 15) -> tuple[int, str, str]:
    """Return exit status, stdout and stderr."""
    try:
        out, err = await asyncio.wait_for(process.communicate(), seconds)
    except TimeoutError:
        process.kill()
        raise
    return process.returncode, out.decode(), err.decode()


async def printed_exports(server: asyncio.subprocess.Process) -> tuple[list[str], dict[str, str]]:
    """Read what `emulate` prints first; return its export lines, and the same as a dict."""
    exports = []
    async with asyncio.timeout(15):
        while (line := (await server.stdout.readline()).decode()).startswith("export "):
            exports.append(line)
    values = (line.removeprefix("export ").strip().split("=", 1) for line in exports)
    return exports, {name: value.strip("'") for name, value in values}


async def until(condition, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the condition lies in another process
            await asyncio.sleep(0.01)


def feed(path: Path, count: int) -> Path:
    """Write *count* HIGH signals to *path*."""
    path.write_text("".join(json.dumps({"ip": f"10.0.0.{n}", "riskLevel": "HIGH"}) + "\n" for n in range(count)))
    return path


# ------------------------------------------------------------------------------------------------ demo


async def test_the_demo_shows_what_the_product_promises():
    """The code of `riskbatch demo` at 15 times the speed: HIGH first, a failure survived, one refused, all told."""
    stream, began = io.StringIO(), time.monotonic()
    status = await demo._Demo(stream, rb.RateLimit(30, 4.0)).run()
    text = stream.getvalue()

    assert status == 0
    assert time.monotonic() - began < 20  # it takes half a minute otherwise
    assert max(len(line) for line in text.splitlines()) < 80
    assert "\x1b" not in text
    story = [line for line in text.splitlines() if re.match(r" +\d+\.\ds ", line)]
    asides = [place for place, line in enumerate(story) if "HIGH arrives" in line]
    assert len(asides) == 2
    for place in asides:
        waiting = int(re.search(r"while (\d+) others wait", story[place])[1])
        assert waiting > 50
        # On a busy machine, a request that left just before the HIGH was enqueued may arrive after that line.
        assert any(f"HIGH{X}1 " in line for line in story[place + 1 : place + 3])
    assert "503: all go back" in text
    assert "400: one is bad" in text
    assert f"MEDIUM{X}1 " in text
    assert re.search(r"Of 312 signals: 311 accepted, 1 rejected; 0 lost\.", text)
    requests, most = map(int, re.search(r"(\d+) requests, at most (\d+) in any 4 s", text).groups())
    assert most <= requests <= 30
    medians = dict(re.findall(r"^(HIGH|MEDIUM|LOW) +\d+ +(\d+\.\d) s", text, re.MULTILINE))
    assert float(medians["HIGH"]) < float(medians["LOW"])


async def test_the_demo_ends_when_nobody_reads():
    """`riskbatch demo | head -3` ends with head, without a traceback."""
    process = await spawn("demo")
    for _ in range(3):
        await process.stdout.readline()
    process._transport.get_pipe_transport(1).close()
    status, _, err = await ended(process, 8)

    assert (status, err) == (141, "")


async def test_the_demo_can_be_interrupted():
    process = await spawn("demo")
    await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    status, _, err = await ended(process, 5)

    assert (status, err) == (130, "")


@pytest.mark.parametrize(
    ("env", "is_coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"NO_COLOR": ""}, True)],
)
async def test_colour_is_for_terminals_that_want_it(env, is_coloured, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    stream = io.StringIO()
    stream.isatty = lambda: True
    text = printer.Printer(stream, terminal.Stop()).mix({"LOW": 2, "HIGH": 1}, 20)

    assert re.sub("\x1b\\[[0-9;]*m", "", text) == f"HIGH{X}1 LOW{X}2" + " " * 8
    assert ("\x1b" in text) == is_coloured


# ------------------------------------------------------------------------------------------------ emulate


async def test_send_works_by_the_lines_that_emulate_prints(tmp_path):
    """Copy the export lines, send, and see one line per request; Ctrl-C is the good end."""
    server = await spawn("emulate", *QUICKLY, "--token", "it's-a-token")
    exports, values = await printed_exports(server)
    status, _, err = await in_a_shell(exports, f"send {feed(tmp_path / 'feed', 25)} --limit 30/1s")
    server.send_signal(signal.SIGINT)
    server_status, out, server_err = await ended(server, 5)

    assert list(values) == ["OKTA_CLIENT_ORGURL", "OKTA_CLIENT_TOKEN", "OKTA_CLIENT_AUTHORIZATIONMODE"]
    assert values["OKTA_CLIENT_ORGURL"].startswith("http://127.0.0.1:")
    assert status == 0
    assert "25 accepted" in err
    assert len(re.findall(rf"^\d\d:\d\d:\d\d +\d+  HIGH{X}(?:20|5) .* 202$", out, re.MULTILINE)) == 2
    assert f"2 requests, at most 2 in any 1 s (limit 30); accepted: HIGH{X}25" in out
    assert max(len(line) for line in out.splitlines()) < 80
    assert (server_status, server_err) == (0, "")


@pytest.mark.parametrize("dpop", [True, False])
async def test_a_service_app_can_be_tried(dpop, tmp_path):
    """With the lines that are printed, doctor finds nothing to fix, and send sends, with DPoP and without."""
    server = await spawn("emulate", *QUICKLY, "--service-app", *([] if dpop else ["--no-dpop"]))
    exports, values = await printed_exports(server)
    key = Path(values["OKTA_CLIENT_PRIVATEKEY"])
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (key, key.parent)]
    doctor = await in_a_shell(exports, "doctor")
    sent = await in_a_shell(exports, f"send {feed(tmp_path / 'feed', 3)} --limit 30/1s")
    server.send_signal(signal.SIGINT)
    server_status, out, server_err = await ended(server, 5)

    assert values["OKTA_CLIENT_AUTHORIZATIONMODE"] == "PrivateKey"
    assert values["OKTA_CLIENT_DPOPENABLED"] == str(dpop).lower()
    assert modes == [0o600, 0o700]
    assert doctor[0] == 0, doctor
    assert values["OKTA_CLIENT_CLIENTID"] in doctor[1]
    assert sent[0] == 0, sent
    assert f"accepted: HIGH{X}3" in out
    assert ("POST /oauth2/v1/token  400 use_dpop_nonce" in out) == dpop
    assert (server_status, server_err) == (0, "")
    assert not key.parent.exists()


async def test_the_key_can_stand_where_the_user_says(tmp_path):
    """It is made there for the owner alone, it stays, and the next run uses it again."""
    key = tmp_path / "my app's.pem"
    texts = []
    for _ in range(2):
        server = await spawn("emulate", *QUICKLY, "--service-app", "--key", key)
        exports, _ = await printed_exports(server)
        status, out, _ = await in_a_shell(exports, "doctor")
        server.send_signal(signal.SIGTERM)
        await ended(server, 5)
        assert status == 0, out
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        texts.append(key.read_text())
    assert texts[0] == texts[1]
    assert texts[0].startswith("-----BEGIN PRIVATE KEY-----")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--key", "any"], "give that too"),
        (["--no-dpop"], "give that too"),
        (["--service-app", "--key", os.devnull], "private_key is neither PEM"),
        (["--service-app", "--key", "no-such-folder/key.pem"], "No such file or directory"),
        (["--service-app", "--key", "a\x1b[31mb"], "control characters"),
    ],
)
async def test_what_cannot_be_done_is_one_line(arguments, says, capsys):
    """Exit status 2, one line that says why, and no escape sequence of a file's name."""
    assert await asyncio.to_thread(cli.main, ["emulate", *arguments]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert len(err.splitlines()) == 1
    assert "\x1b" not in err


async def test_without_the_extra_it_says_what_to_install(capsys, monkeypatch):
    """The package is on no index, so the words are those for a checkout."""
    monkeypatch.setitem(sys.modules, "joserfc.jwk", None)
    assert await asyncio.to_thread(cli.main, ["emulate", "--service-app"]) == 2
    assert "pip install '.[oauth]'" in capsys.readouterr().err


async def test_a_strange_request_is_shown_without_its_escape_sequences():
    """What another program sends to the port must not control the terminal."""
    server = await spawn("emulate", *QUICKLY)
    _, values = await printed_exports(server)
    host, port = values["OKTA_CLIENT_ORGURL"].removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /\xc2\x9b31m HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    await reader.read()
    writer.close()
    server.send_signal(signal.SIGINT)
    _, out, _ = await ended(server, 5)

    assert "\x9b" not in out
    assert re.search(r"GET /.*  404 E0000008$|^\n0 requests", out, re.MULTILINE)


async def test_emulate_fails_the_share_it_was_told_to():
    server = await spawn("emulate", *LIMIT, "--fault", "1")
    _, values = await printed_exports(server)
    url, token = values["OKTA_CLIENT_ORGURL"], values["OKTA_CLIENT_TOKEN"]
    async with rb.Client(url, rb.ApiToken(token), close_timeout=0) as client:
        client.enqueue_nowait(rb.RiskSignal("10.0.0.1", "HIGH"))
        await until(lambda: client.statistics().trouble)
    server.send_signal(signal.SIGTERM)
    status, out, _ = await ended(server, 5)

    assert status == 0
    assert "503 E0000181" in out
    assert "accepted: -" in out


async def test_emulate_ends_when_nobody_reads():
    """A broken pipe is found by the next request's line, and is the end, not an error inside the server."""
    server = await spawn("emulate")
    _, values = await printed_exports(server)
    url, token = values["OKTA_CLIENT_ORGURL"], values["OKTA_CLIENT_TOKEN"]
    await server.stdout.readline()
    await server.stdout.readline()
    server._transport.get_pipe_transport(1).close()
    async with rb.Client(url, rb.ApiToken(token), close_timeout=0) as client:
        client.enqueue_nowait(rb.RiskSignal("10.0.0.1", "HIGH"))
        status, _, err = await ended(server, 5)

    assert (status, err) == (141, "")


async def test_a_port_that_is_taken_is_one_line(capsys):
    """Exit status 2, and the system's reason."""
    async with OktaEmulator() as okta:
        port = okta.url.rpartition(":")[2]
        assert await asyncio.to_thread(cli.main, ["emulate", "--port", port]) == 2

    err = capsys.readouterr().err
    assert "address already in use" in err
    assert len(err.splitlines()) == 1
