"""The README is run, not only read."""

import asyncio
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import generate_latest

import riskbatch
from riskbatch.emulator import OktaEmulator

README = (Path(__file__).parent.parent / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
SHELL = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()]
COMMANDS = [line for line in SHELL if line.startswith("riskbatch ")]


def run(block: str, url: str, token: str, monkeypatch) -> None:
    """Execute *block* as it stands, but against the org at *url*, and call the coroutine functions that it defines."""
    monkeypatch.setenv("OKTA_CLIENT_ORGURL", url)
    monkeypatch.setenv("OKTA_CLIENT_TOKEN", token)
    names: dict[str, object] = {}
    exec(compile(block.replace("https://acme.okta.com", url).replace("9464", "0"), "README.md", "exec"), names)
    arguments = {"report": ("203.0.113.7",)}
    for name, value in names.items():
        if name.startswith("test_") and not asyncio.iscoroutinefunction(value):
            continue  # it wants fixtures; tests/wire/test_plugin.py has one like it
        if asyncio.iscoroutinefunction(value):
            asyncio.run(value(*arguments.get(name, ())))


@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
def test_every_python_block_runs(block, monkeypatch, tmp_path):
    """Each block does what it says, against a strict org."""
    monkeypatch.chdir(tmp_path)
    started, org = [], {}

    async def serve(stop: asyncio.Event) -> None:
        async with OktaEmulator() as okta:
            org["okta"] = okta
            started.append(asyncio.get_running_loop())
            await stop.wait()

    import threading

    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: asyncio.run(serve(stop)))
    thread.start()
    try:
        while not started:
            threading.Event().wait(0.01)
        run(block, org["okta"].url, org["okta"].token, monkeypatch)
        if "PrometheusMetricReader" in block:
            scraped = generate_latest().decode()
            assert re.search(r'riskbatch_signals_settled_total{.*riskbatch_outcome="accepted".*} 1.0', scraped)
            assert re.search(r'riskbatch_signals_wait_seconds_bucket{.*riskbatch_risk_level="HIGH".*} 1.0', scraped)
    finally:
        started[0].call_soon_threadsafe(stop.set)
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
