"""The README is run, not only read."""

import asyncio
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import generate_latest, start_http_server

import riskbatch
from riskbatch.emulator import OktaEmulator

README = (Path(__file__).parent.parent / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
SHELL = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()]
COMMANDS = [line for line in SHELL if line.startswith("riskbatch ")]


def run(block: str, okta: OktaEmulator, engine_url: str, monkeypatch) -> None:
    """Execute *block* as it stands, but against *okta* and a real engine, and call the functions that it defines."""
    monkeypatch.setenv("OKTA_CLIENT_ORGURL", okta.url)
    monkeypatch.setenv("OKTA_CLIENT_TOKEN", okta.token)
    names: dict[str, object] = {}
    for addressed, served in (("https://acme.okta.com", okta.url), ("valkey://localhost:6379/0", engine_url)):
        block = block.replace(addressed, served)
    exec(compile(block, "README.md", "exec"), names)
    arguments = {"report": ("203.0.113.7",), "test_my_program": (okta, monkeypatch)}
    for name, value in names.items():
        if asyncio.iscoroutinefunction(value):
            asyncio.run(value(*arguments.get(name, ())))
        elif name == "in_any_thread":
            asyncio.run(in_another_thread(value))
        elif name in arguments:
            value(*arguments[name])


async def in_another_thread(function) -> None:
    async with riskbatch.Client.from_env() as client:
        await asyncio.to_thread(function, client)


@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
def test_every_python_block_runs(block, riskbatch_okta, engine_url, monkeypatch, tmp_path):
    """Each block does what it says, against a strict org."""
    monkeypatch.chdir(tmp_path)
    run(block, riskbatch_okta, engine_url, monkeypatch)


def test_what_prometheus_scrapes(riskbatch_okta, engine_url, monkeypatch):
    """The recipe's numbers are there under Prometheus' names."""
    (block,) = [block for block in PYTHON if "PrometheusMetricReader" in block]
    run(block, riskbatch_okta, engine_url, monkeypatch)
    scraped = generate_latest().decode()
    assert re.search(r'riskbatch_signals_settled_total{.*riskbatch_outcome="accepted".*} 1.0', scraped)
    assert re.search(r'riskbatch_signals_wait_seconds_bucket{.*riskbatch_risk_level="HIGH".*} 1.0', scraped)


@pytest.fixture(autouse=True)
def _scrapes(monkeypatch):
    """Any free port in place of the recipe's, and no server afterwards."""
    served = []
    monkeypatch.setattr(
        "prometheus_client.start_http_server", lambda _, host: served.append(start_http_server(0, host))
    )
    yield
    for server, thread in served:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one(command):
    """Each command of the README is known with exactly these options."""
    program, *arguments = shlex.split(command)
    done = subprocess.run(
        [sys.executable, "-m", program, arguments[0], "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    for option in (word for word in arguments if word.startswith("--")):
        assert option in done.stdout


def test_the_two_commands_are_there_once():
    """One command shows the product, one passes the tests; both start from a fresh virtual environment."""
    for name in ("demo", "test"):
        (command,) = re.findall(rf"<!-- {name} command -->\n```sh\n(.+)\n```", README)
        assert command.startswith("python3 -m venv ")


def test_the_table_of_settings_is_the_constructor():
    """Every keyword of `Client` is in the README, with nothing that is none."""
    import inspect

    keywords = {name for name, p in inspect.signature(riskbatch.Client).parameters.items() if p.kind is p.KEYWORD_ONLY}
    table = README.split("## Settings")[1].split("```")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.M)) == keywords - {"transport"}
