"""A fleet of real processes over a real Valkey: killed, frozen and cut off, with the window counted by a strict org."""

import asyncio
import itertools
import json
import math
import os
import random
import signal
import ssl
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from budget import budget
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from local_engine import LocalEngine, free_port
from valkey.asyncio import Sentinel, ValkeyCluster

import riskbatch as rb
from riskbatch.cli import main
from riskbatch.emulator import Fault, OktaEmulator
from riskbatch.stores.valkey import admin

REPLICA = Path(__file__).with_name("fleet_replica.py")
PERIOD = 2.0  # seconds: a minute in a thirtieth
LEASE = 0.6
GIVEN_BACK = 6 * LEASE  # seconds in which whoever lives, and was frozen meanwhile, gives an engine back what it forgot
SECONDS = float(os.environ.get("RISKBATCH_FLEET_SECONDS", budget("3", "60")))  # of chaos
BEFORE = 5  # HIGH before the misfortune


def client(okta: OktaEmulator, engine: LocalEngine | str, **options) -> rb.Client:
    target = engine.url if isinstance(engine, LocalEngine) else engine
    store = rb.ValkeyStore(target, **{"lease": LEASE, "name": "fleet"} | options.pop("store", {}))
    defaults = {"limit": rb.RateLimit(30, PERIOD), "linger": 0.0}
    return rb.Client(okta.url, rb.ApiToken(okta.token), store=store, **defaults | options)


class Replica:
    """A process that enqueues for ever; what it printed is what it was told."""

    numbers = iter(range(0, 100_000_000, 50_000))
    skews = itertools.cycle(["0", "3600", "-86400"])  # seconds by which their wall clocks are wrong

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.acknowledged: list[str] = []
        self.settled: dict[str, str] = {}
        self.twice: list[str] = []
        self.opened = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls, okta: OktaEmulator, engine: LocalEngine, period: float = PERIOD, lease: float = LEASE, pause: float = 0.05
    ) -> "Replica":
        arguments = [str(REPLICA), okta.url, okta.token, engine.url, str(next(cls.numbers)), str(period), str(lease)]
        environment = os.environ | {"PYTHONPATH": str(Path(rb.__file__).parents[1])}
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                str(pause),
                next(cls.skews),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        )

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            match line.decode().split():
                case ["open"]:
                    self.opened.set()
                case ["settled", ip, outcome]:
                    self.twice += [ip] if ip in self.settled else []
                    self.settled[ip] = outcome
                case [ip] if line.endswith(b"\n"):
                    self.acknowledged.append(ip)
        self.opened.set()

    def send(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def kill(self) -> None:
        self.send(signal.SIGKILL)
        await self.process.wait()
        await self._reader


OF_REPLICAS = ("kill", "freeze", "freeze")
OF_THE_ENGINE = ("kill engine", "freeze engine", "cut")


@pytest.mark.parametrize(
    "dangers",
    [OF_REPLICAS, OF_REPLICAS + OF_THE_ENGINE, OF_REPLICAS + OF_THE_ENGINE + ("flush", "flush")],
    ids=["engine stays", "engine dies too", "engine forgets too"],
)
async def test_a_fleet_that_is_killed_and_frozen_keeps_the_window_and_loses_nothing(tmp_path, dangers):
    """
    Whoever is killed or frozen: no window sees more than 30, what was acknowledged arrives, and receipts end.

    Only an engine that forgets loses anything, and only what replicas had enqueued that were dead by then.
    """
    rng = random.Random(len(dangers))
    unknown: set[str] = set()  # what an engine forgot that nobody living had enqueued
    everybody: list[Replica] = []
    with LocalEngine(tmp_path) as engine:
        async with OktaEmulator(limit=10_000, period=PERIOD) as okta:

            async def start() -> Replica:
                everybody.append(await Replica.start(okta, engine))
                return everybody[-1]

            living = [await start() for _ in range(3)]
            await asyncio.gather(*(one.opened.wait() for one in living))
            loop, flushed_at = asyncio.get_running_loop(), -math.inf
            until = loop.time() + SECONDS
            while loop.time() < until:
                await asyncio.sleep(rng.uniform(0.1, 0.5))
                number = rng.randrange(3)
                match rng.choice(dangers):
                    case "kill":
                        await living[number].kill()
                        if loop.time() < flushed_at + GIVEN_BACK:
                            unknown.update(living[number].acknowledged)
                        living[number] = await start()
                    case "flush":
                        dead = [one for one in everybody if one not in living]
                        unknown.update(ip for one in dead for ip in one.acknowledged)
                        engine.client().flushall()
                        flushed_at = loop.time()
                    case "freeze":
                        living[number].send(signal.SIGSTOP)
                        await asyncio.sleep(rng.uniform(0.1, 2 * LEASE))
                        living[number].send(signal.SIGCONT)
                    case "cut":
                        engine.client().client_kill_filter(_type="normal", skipme=True)
                    case "kill engine":
                        engine.kill()
                        await asyncio.sleep(rng.uniform(0, LEASE))
                        engine.start()
                    case "freeze engine":
                        engine.freeze()
                        await asyncio.sleep(rng.uniform(0.1, 2 * LEASE))
                        engine.thaw()
            await asyncio.sleep(max(0.0, flushed_at + GIVEN_BACK - loop.time()))
            for one in everybody:
                await one.kill()
            acknowledged = {ip for one in everybody for ip in one.acknowledged}
            async with client(okta, engine, close_timeout=0) as heir:
                while True:
                    fleet = heir.statistics().fleet
                    if fleet.alive == 1 and fleet.waiting + fleet.in_flight == 0:
                        break
                    await asyncio.sleep(0.1)
            assert okta.most_in_any_window(PERIOD) <= 30
            assert acknowledged - unknown <= {one.ip for one in okta.signals}
            assert len(acknowledged) > 10 * SECONDS
            assert [ip for one in everybody for ip in one.twice] == []
            assert {outcome for one in everybody for outcome in one.settled.values()} == {"Accepted"}
            assert "flush" in dangers or fleet.admitted == fleet.accepted


async def test_a_killed_replicas_signals_are_sent_by_another_within_the_lease(tmp_path):
    """What a killed replica had in flight, another sends within the lease; and its receipts elsewhere resolve."""
    with LocalEngine(tmp_path) as engine:
        async with OktaEmulator(limit=1000, period=PERIOD) as okta:
            okta.faults.append(Fault.hang())
            victim = await Replica.start(okta, engine)
            await victim.opened.wait()
            while not okta.requests:  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.01)
            async with client(okta, engine, close_timeout=0) as survivor:
                await victim.kill()
                killed_at = asyncio.get_running_loop().time()
                while not set(victim.acknowledged) <= {one.ip for one in okta.signals}:
                    assert asyncio.get_running_loop().time() < killed_at + 20 * LEASE
                    await asyncio.sleep(0.02)
                assert survivor.statistics().requests > 0


@pytest.mark.parametrize("misfortune", ["killed", "frozen", "its loop blocked"])
async def test_no_replicas_misfortune_delays_another_ones_high(tmp_path, misfortune):
    """A HIGH reaches Okta within half a second though another replica is killed, frozen, or blocks its event loop."""
    with LocalEngine(tmp_path) as engine:
        async with OktaEmulator(limit=10_000, period=PERIOD) as okta, AsyncExitStack() as stack:
            victims = [await Replica.start(okta, engine, lease=5.0) for _ in range(2)]
            await asyncio.gather(*(one.opened.wait() for one in victims))
            options = {"store": {"lease": 5.0}, "close_timeout": 0}
            sender = await stack.enter_async_context(client(okta, engine, **options))
            loop, waits = asyncio.get_running_loop(), []
            for number in range(BEFORE + budget(9, 16)):
                if number == BEFORE:
                    victims[0].send(
                        {"killed": signal.SIGKILL, "frozen": signal.SIGSTOP}.get(misfortune, signal.SIGUSR1)
                    )
                begin, seen = loop.time(), len(okta.signals)
                receipt = await sender.enqueue(rb.RiskSignal(f"10.200.0.{number}", "HIGH"))
                while receipt.signal.ip not in {one.ip for one in okta.signals[seen:]}:  # noqa: ASYNC110 - whoever sends it
                    await asyncio.sleep(0.002)
                waits.append(loop.time() - begin)
                await asyncio.sleep(0.25)
            for one in victims:
                await one.kill()
    assert max(waits[BEFORE:]) < 0.5, waits


async def test_an_engine_at_maxmemory_admits_nothing_and_drains(tmp_path):
    """At maxmemory `enqueue` waits, what was admitted is sent and settled all the same, and then the engine admits."""
    with LocalEngine(tmp_path) as engine:
        async with OktaEmulator(limit=10_000, period=PERIOD) as okta, client(okta, engine) as c:
            okta.faults += [Fault.unavailable()] * 3
            receipts = await c.enqueue_many([rb.RiskSignal(f"10.0.{i >> 8}.{i & 255}", "LOW") for i in range(600)])
            assert not all(receipt.done() for receipt in receipts)
            engine.client().config_set("maxmemory", 1)
            late = asyncio.create_task(c.enqueue(rb.RiskSignal("10.9.0.1", "HIGH")))
            with pytest.raises(rb.StoreError, match="maxmemory"):
                await c.enqueue(rb.RiskSignal("10.9.0.2", "HIGH"), timeout=0.5)
            assert {type(await receipt) for receipt in receipts} == {rb.Accepted}
            assert not late.done()
            engine.client().config_set("maxmemory", 0)
            assert isinstance(await (await late), rb.Accepted)
            assert await c.flush(10) == 0
        assert "10.9.0.2" not in {one.ip for one in okta.signals}
        assert okta.most_in_any_window(PERIOD) <= 30


@asynccontextmanager
async def stable_address():
    """Yield the port of a proxy, and a list whose first is the port that new connections are passed to."""
    target: list[int] = []

    async def pump(reader, writer):
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()

    async def serve(reader, writer):
        inner = await asyncio.open_connection("127.0.0.1", target[0])
        await asyncio.gather(pump(reader, inner[1]), pump(inner[0], writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], target


async def test_a_failover_behind_a_stable_address_is_found_without_a_restart(tmp_path):
    """When the address leads to another primary and the old one is a replica now, the fleet goes on within seconds."""
    async with AsyncExitStack() as stack:
        first = stack.enter_context(LocalEngine(tmp_path / "one"))
        second = stack.enter_context(LocalEngine(tmp_path / "two", "--replicaof", "127.0.0.1", str(first.port)))
        while first.client().info("replication")["connected_slaves"] == 0:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.05)
        okta = await stack.enter_async_context(OktaEmulator(limit=1000, period=PERIOD))
        port, target = await stack.enter_async_context(stable_address())
        target.append(first.port)
        c = await stack.enter_async_context(client(okta, f"valkey://127.0.0.1:{port}/0"))
        assert isinstance(await (await c.enqueue(rb.RiskSignal("10.0.0.1", "HIGH"))), rb.Accepted)
        second.client().replicaof("NO", "ONE")
        first.client().replicaof("127.0.0.1", second.port)  # its open connections stay
        target[0] = second.port
        async with asyncio.timeout(10):
            assert isinstance(await (await c.enqueue(rb.RiskSignal("10.0.0.2", "HIGH"))), rb.Accepted)
        assert c.statistics().fleet.away is None


async def test_enqueue_waits_for_an_engine_that_is_frozen_or_started_again(tmp_path):
    """While the engine is away `enqueue` waits, and nothing is sent; when it is back, everything is, once."""
    with LocalEngine(tmp_path) as engine:
        async with OktaEmulator(limit=1000, period=PERIOD) as okta, client(okta, engine) as c:
            for number, (away, back) in enumerate([(engine.freeze, engine.thaw), (engine.kill, engine.start)]):
                away()
                calls = [asyncio.create_task(c.enqueue(rb.RiskSignal(f"10.0.{number}.{i}", "HIGH"))) for i in range(30)]
                await asyncio.sleep(3 * LEASE)
                assert not any(call.done() for call in calls)
                assert c.statistics().fleet.away
                assert "engine" in c.statistics().trouble
                back()
                for receipt in await asyncio.gather(*calls):
                    assert isinstance(await receipt, rb.Accepted)
            assert len(okta.signals) == len({one.ip for one in okta.signals}) == 60


@asynccontextmanager
async def tls_in_front_of(engine: LocalEngine, folder: Path):
    """Yield the port of a TLS server that passes all to *engine*, and the certificate to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, authority = folder / "server.pem", folder / "ca.pem"
    encoding = serialization.Encoding.PEM
    authority.write_bytes(certificate.public_bytes(encoding))
    form = serialization.PrivateFormat.PKCS8
    pem.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()) + authority.read_bytes())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)

    async def pump(reader, writer):
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()

    async def serve(reader, writer):
        inner = await asyncio.open_connection("127.0.0.1", engine.port)
        await asyncio.gather(pump(reader, inner[1]), pump(inner[0], writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1], authority


@pytest.mark.parametrize("kind", ["password", "acl", "tls", "cluster", "sentinel", "socket"])
async def test_every_way_to_an_engine(tmp_path, kind, caplog):
    """A password, an ACL user with no more rights than needed, a cluster, a Sentinel and a socket all work."""
    options = {
        "password": ["--requirepass", "sesame"],
        "acl": [
            "--user",
            "default",
            "off",
            "--user",
            "risk",
            "on",
            ">sesame",
            "~riskbatch:*",
            "-@all",
            "+@hash",
            "+@sortedset",
            "+@stream",
            "+evalsha",
            "+eval",
            "+time",
            "+info",
            "+pexpire",
            "+select",
            "+client",
        ],
        "cluster": ["--cluster-enabled", "yes", "--cluster-port", str(free_port())],
        "socket": ["--unixsocket", f"{tmp_path}/v.sock"],
    }.get(kind, [])
    async with AsyncExitStack() as stack:
        engine = stack.enter_context(LocalEngine(tmp_path / "data", *options))
        okta = await stack.enter_async_context(OktaEmulator(limit=1000, period=PERIOD))
        calm = {"lease": 5.0}  # a part of it is the timeout of a connection, and a handshake takes its time
        target = {
            "password": f"valkey://:sesame@127.0.0.1:{engine.port}/0",
            "acl": f"valkey://risk:sesame@127.0.0.1:{engine.port}/0",
            "socket": f"unix://{tmp_path}/v.sock",
        }.get(kind)
        if kind == "tls":
            port, authority = await stack.enter_async_context(tls_in_front_of(engine, tmp_path))
            with pytest.raises(rb.StoreError, match="certificate"):
                await client(okta, f"valkeys://localhost:{port}/0", store=calm).__aenter__()
            target = f"valkeys://localhost:{port}/0?ssl_ca_certs={authority}"
        elif kind == "cluster":
            engine.client().execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            while b"cluster_state:ok" not in engine.client().execute_command("CLUSTER", "INFO"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            target = ValkeyCluster(host="127.0.0.1", port=engine.port)
            stack.push_async_callback(target.aclose)
        elif kind == "sentinel":
            conf = tmp_path / "sentinel.conf"
            conf.write_text(f"sentinel monitor risk 127.0.0.1 {engine.port} 1\n")
            watcher = stack.enter_context(
                LocalEngine(tmp_path / "sentinel", first=[str(conf), "--sentinel"], appendfsync="no")
            )
            sentinel = Sentinel([("127.0.0.1", watcher.port)])
            target = sentinel.master_for("risk")
            stack.push_async_callback(target.aclose)
            for one in sentinel.sentinels:
                stack.push_async_callback(one.aclose)
        async with client(okta, target, store=calm) as c:
            receipts = await c.enqueue_many([rb.RiskSignal(f"10.0.0.{i}", "HIGH") for i in range(25)])
            assert {type(await receipt) for receipt in receipts} == {rb.Accepted}
            assert "sesame" not in repr(c._options["store"])
    assert "sesame" not in caplog.text


async def test_a_failover_of_the_engine_loses_nothing_of_the_living(tmp_path):
    """When Sentinel makes another the primary, the fleet goes on there, and the window holds."""
    conf = tmp_path / "sentinel.conf"
    async with AsyncExitStack() as stack:
        first = stack.enter_context(LocalEngine(tmp_path / "one"))
        second = stack.enter_context(LocalEngine(tmp_path / "two", "--replicaof", "127.0.0.1", str(first.port)))
        while first.client().info("replication")["connected_slaves"] == 0:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.05)
        conf.write_text(
            f"sentinel monitor risk 127.0.0.1 {first.port} 1\n"
            "sentinel down-after-milliseconds risk 300\nsentinel failover-timeout risk 2000\n"
        )
        watcher = LocalEngine(tmp_path / "sentinel", first=[str(conf), "--sentinel"], appendfsync="no")
        stack.enter_context(watcher)
        okta = await stack.enter_async_context(OktaEmulator(limit=1000, period=PERIOD))
        clients = []
        for _ in range(2):
            sentinel = Sentinel([("127.0.0.1", watcher.port)])
            target = sentinel.master_for("risk")
            stack.push_async_callback(target.aclose)
            stack.push_async_callback(sentinel.sentinels[0].aclose)
            clients.append(await stack.enter_async_context(client(okta, target)))
        receipts = [await clients[i % 2].enqueue(rb.RiskSignal(f"10.0.0.{i}", "LOW")) for i in range(120)]
        first.kill()
        late = [await one.enqueue(rb.RiskSignal("10.0.1.1", "HIGH"), timeout=30) for one in clients]
        assert {type(await receipt) for receipt in receipts + late} == {rb.Accepted}
        assert second.client().info("replication")["role"] == "master"
        assert okta.most_in_any_window(PERIOD) <= 30


async def test_a_wrong_password_is_an_error_at_once_that_does_not_show_it(tmp_path, caplog):
    """An engine that refuses is a StoreError when the client is opened, without the password."""
    with LocalEngine(tmp_path, "--requirepass", "right") as engine:
        async with OktaEmulator() as okta:
            for url in (engine.url, f"valkey://:sesame@127.0.0.1:{engine.port}/0"):
                with pytest.raises(rb.StoreError) as caught:
                    await client(okta, url).__aenter__()
                assert "sesame" not in str(caught.value) + caplog.text
        engine.kill()
        async with OktaEmulator() as okta:
            with pytest.raises(rb.StoreError, match=str(engine.port)):
                await client(okta, engine.url).__aenter__()


async def test_thousands_of_orgs_share_an_engine_and_an_idle_one_costs_little(tmp_path):
    """Fleets with different names do not see each other, and an idle org is a few kilobytes in the engine."""
    with LocalEngine(tmp_path, appendfsync="no") as engine:
        async with OktaEmulator(limit=10_000, period=PERIOD) as okta, AsyncExitStack() as stack:
            orgs = [client(okta, engine, store={"name": f"org{i}"} | {"lease": 30.0}) for i in range(50)]
            for one in orgs:
                await stack.enter_async_context(one)
            for number, one in enumerate(orgs):
                await one.enqueue(rb.RiskSignal(f"10.0.0.{number}", "HIGH"))
            assert await asyncio.gather(*(one.flush(30) for one in orgs)) == [0] * 50
            size = sum(engine.client().memory_usage(key) for key in engine.client().keys("*"))
            assert size / 50 < 8_000
        assert len(okta.signals) == 50


def test_operators_look_into_a_fleet_and_mend_it(tmp_path, capsys):
    """`riskbatch queue` lists, counts, exports, imports and drops what waits in a fleet's queue, while it runs."""
    feed = tmp_path / "feed.jsonl"
    records = [{"ip": f"10.0.0.{i}", "riskLevel": "LOW"} for i in range(250)]
    records += [{"ip": f"10.9.0.{i}", "riskLevel": "HIGH"} for i in (1, 2)]
    feed.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    with LocalEngine(tmp_path / "data") as engine:
        queue = [engine.url, "--name", "acme"]
        assert main(["queue", "import", queue[0], str(feed), *queue[1:]]) == 0
        assert main(["queue", "stats", *queue]) == 0
        out = capsys.readouterr().out
        assert "252 signals imported" in out
        assert "252 wait" in out
        assert main(["queue", "ls", *queue]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[2] for line in lines] == ["HIGH"] * 2 + ["LOW"] * 250
        assert main(["queue", "drop", *queue, "--row", lines[0].split()[0]]) == 0
        assert main(["queue", "drop", *queue, "--level", "LOW"]) == 0
        assert capsys.readouterr().out == "1 signal dropped\n250 signals dropped\n"
        assert main(["queue", "export", *queue]) == 0
        assert json.loads(capsys.readouterr().out)["ip"] == "10.9.0.2"
        assert main(["queue", "stats", engine.url]) == 2
        assert asyncio.run(fleets_of(engine.url)) == ["acme"]


async def fleets_of(url: str) -> list[str]:
    engine = rb.ValkeyStore(url, name="typo").connect("")
    try:
        return await admin.names(engine)
    finally:
        await engine.close()
