"""Each example runs as it stands, with the real framework, against a strict org."""

import asyncio
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

import riskbatch as rb

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(autouse=True)
def _environment(riskbatch_okta, monkeypatch):
    monkeypatch.setenv("OKTA_CLIENT_ORGURL", riskbatch_okta.url)
    monkeypatch.setenv("OKTA_CLIENT_TOKEN", riskbatch_okta.token)


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(name, *arguments, **options):
    """Run an example in a process of its own."""
    return subprocess.Popen(
        [sys.executable, EXAMPLES / f"{name}.py", *arguments], stderr=subprocess.PIPE, text=True, **options
    )


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - it happens in another thread or process
            await asyncio.sleep(0.02)


def sent(okta):
    return {(each.ip, each.risk_level, each.message) for each in okta.signals}


@asynccontextmanager
async def served_by_uvicorn(app):
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="on", log_level="warning", ws="none"))
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await serving


async def test_fastapi(riskbatch_okta):
    """Requests are answered at once, mistakes as 422, and the end of the application sends what lingers."""
    async with served_by_uvicorn(load("fastapi_app").app) as url, aiohttp.ClientSession(url) as http:
        for ip, level, status in (("203.0.113.7", "HIGH", 202), ("203.0.113.8", "LOW", 202), ("nonsense", "LOW", 422)):
            async with http.post("/signals", params={"ip": ip, "risk_level": level}) as answer:
                assert answer.status == status
        async with http.get("/health") as answer:
            assert "open:" in (await answer.json())["status"]
    assert sent(riskbatch_okta) == {("203.0.113.7", "HIGH", None), ("203.0.113.8", "LOW", None)}


async def test_starlette(riskbatch_okta):
    """The same lifespan serves an application without FastAPI."""
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def report(request):
        await request.app.state.risk.enqueue(rb.RiskSignal(request.query_params["ip"], "LOW"))
        return PlainTextResponse("", 202)

    app = Starlette(routes=[Route("/", report)], lifespan=load("fastapi_app").lifespan)
    async with served_by_uvicorn(app) as url, aiohttp.request("GET", f"{url}/?ip=203.0.113.7") as answer:
        assert answer.status == 202
    assert sent(riskbatch_okta) == {("203.0.113.7", "LOW", None)}


async def test_aiohttp(riskbatch_okta):
    """The cleanup context opens the client before the first request and drains it after the last."""
    from aiohttp import web

    runner = web.AppRunner(load("aiohttp_app").make_app())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    async with aiohttp.ClientSession(f"http://{host}:{port}") as http:
        for body, status in (
            ('{"ip": "203.0.113.7", "riskLevel": "LOW"}', 202),
            ('{"ip": "203.0.113.7"}', 422),
            ("{", 422),
        ):
            async with http.post("/signals", data=body) as answer:
                assert answer.status == status
    assert riskbatch_okta.signals == []  # it lingers
    await runner.cleanup()
    assert sent(riskbatch_okta) == {("203.0.113.7", "LOW", None)}


@pytest.mark.parametrize("end", ["SIGTERM", "end of input"])
async def test_worker(riskbatch_okta, end):
    """SIGTERM, or the end of the stream, stops the reading; what was read is sent, and the exit is clean."""
    worker = start("worker", stdin=subprocess.PIPE, env=os.environ | {"PYTHONWARNINGS": "error::ResourceWarning"})
    lines = [{"ip": f"203.0.113.{number}", "riskLevel": "HIGH" if number < 3 else "LOW"} for number in range(10)]
    worker.stdin.write("".join(f"{json.dumps(line)}\n" for line in [*lines, {"ip": "x", "riskLevel": "LOW"}]))
    worker.stdin.flush()
    await until(lambda: riskbatch_okta.signals)
    if end == "SIGTERM":
        worker.send_signal(signal.SIGTERM)
        said = await asyncio.to_thread(worker.stderr.read)
        worker.stdin.close()
        worker.stderr.close()
    else:
        _, said = await asyncio.to_thread(worker.communicate)
    assert await asyncio.to_thread(worker.wait) == 0, said
    assert "left out: ip is 'x'" in said
    assert "10 accepted" in said
    assert "Traceback" not in said
    assert len(riskbatch_okta.signals) == 10


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM])
async def test_django(riskbatch_okta, ended_by):
    """Views hand over from the server's threads; a view may wait for the outcome; the exit sends what waits."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    server = start("django_app", "runserver", "--noreload", address, stdout=subprocess.DEVNULL)
    try:
        async with aiohttp.ClientSession(f"http://{address}") as http:
            await until(lambda: server.poll() is not None or listens(address))
            for path, ip, status in (("?wait", "203.0.113.7", 200), ("", "203.0.113.8", 202), ("", "nonsense", 422)):
                async with http.post(f"/lockout{path}", data={"ip": ip}) as answer:
                    assert answer.status == status
                    if path:
                        assert "Accepted" in (await answer.json())["outcome"]
    finally:
        server.send_signal(ended_by)
        _, said = await asyncio.to_thread(server.communicate)
    assert server.returncode == 0, said
    assert "Traceback" not in said
    message = "Too many failed logins"
    assert sent(riskbatch_okta) == {("203.0.113.7", "HIGH", message), ("203.0.113.8", "HIGH", message)}


def listens(address):
    with socket.socket() as probe:
        return probe.connect_ex((address.split(":")[0], int(address.split(":")[1]))) == 0


async def test_log_handler(riskbatch_okta):
    """Records of any thread, the loop's own included, become signals; a record that cannot is reported, not raised."""
    await load("log_handler").main()
    assert sent(riskbatch_okta) == {
        ("203.0.113.7", "HIGH", "5 failures in a minute"),
        ("203.0.113.8", "MEDIUM", "a password was sprayed"),
    }


async def test_a_handler_whose_client_is_closed_is_reported_as_any_failing_handler(riskbatch_okta, capsys):
    """Logging goes on, and says on stderr what was lost."""
    import logging

    async with rb.Client.from_env() as client:
        handler = load("log_handler").RiskHandler(client)
    logger = logging.getLogger("closed")
    logger.addHandler(handler)
    logger.error("too late", extra={"ip": "203.0.113.7"})
    logger.removeHandler(handler)
    assert "ClientClosed" in capsys.readouterr().err
