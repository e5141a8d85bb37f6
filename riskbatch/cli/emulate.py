"""`riskbatch emulate`: a strict local Okta to send to, with an API token or with a service app."""

import argparse
import asyncio
import os
import random
import shlex
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TextIO

import riskbatch as rb

from .exits import PIPE_BROKEN
from .options import explain, number, port, rate_limit
from .printer import Printer, subjects
from .terminal import Stop, counted, printable

if TYPE_CHECKING:
    from ..emulator import Exchange, Fault, OktaEmulator

HELP = "run a strict local Okta to send to"

_CLIENT_ID = "0oaEmulatedServiceApp"
_SCOPES = ("okta.riskEvents.manage", "okta.riskProviders.read", "okta.riskProviders.manage")
_NO_CRYPTO = "--service-app needs a crypto library: pip install '.[oauth]' in a checkout of riskbatch"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to *parser*."""
    explain(
        parser,
        "Run a strict local Okta org until Ctrl-C, and print what to export so that\n"
        "`riskbatch send` and `riskbatch doctor` find it. The sender has an API token; with\n"
        "--service-app it is a service app with a private key.",
        "riskbatch emulate --port 8090",
        "riskbatch emulate --limit 15/60s --window sliding --latency 0.3 --fault 0.05",
        "riskbatch emulate --service-app",
        "riskbatch emulate --service-app --no-dpop --key app.pem",
    )
    add = parser.add_argument
    add("--port", type=port, default=0, help="on 127.0.0.1; any free one if not given")
    limit = "requests that the org takes per time"
    add("--limit", metavar="30/60s", type=rate_limit, default=rb.RateLimit(), help=limit)
    add("--window", choices=("fixed", "sliding"), default="fixed", help="how it counts them; fixed, as Okta does")
    add("--latency", metavar="SECONDS", type=number(86400.0), default=0.1, help="until an answer; 0.1")
    add("--fault", metavar="SHARE", type=number(1.0), default=0.0, help="of the requests that get a 503, such as 0.05")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--token", help="the API token that it takes")
    who.add_argument("--service-app", action="store_true", help="play an org with a service app (extra oauth)")
    key = "the app's private key; made if there is no such file. If not given, it is temporary"
    add("--key", metavar="FILE", help=key)
    add("--no-dpop", action="store_true", help="the app need not prove possession of a key with each request")


def run(options: argparse.Namespace) -> int:
    """Run a local Okta until Ctrl-C and return the exit status."""
    if not options.service_app and (options.key is not None or options.no_dpop):
        raise rb.ConfigurationError("--key and --no-dpop are for --service-app; give that too")
    with _key_path(options.key) if options.service_app else nullcontext() as path:
        return asyncio.run(_Emulation(options, path, sys.stdout).run())


# -- the key of the service app


@contextmanager
def _key_path(name: str | None) -> Iterator[Path]:
    """Yield the absolute path of the key file *name*, of a temporary one if it is `None`."""
    if name is None:
        with TemporaryDirectory(prefix="riskbatch-") as folder:
            yield Path(folder, "private_key.pem")
        return
    if not name.isprintable():
        raise rb.ConfigurationError(f"--key is {name!r}; a name with control characters cannot be pasted into a shell")
    yield Path(name).absolute()


def _load_or_make_key(path: Path) -> Mapping[str, object]:
    """Return the public half of the private key at *path*; a new key is written there if there is no such file."""
    try:
        from joserfc.jwk import ECKey  # noqa: PLC0415 - only a service app needs the extra

        from ..okta.keys import load  # noqa: PLC0415
    except ModuleNotFoundError:
        raise rb.ConfigurationError(_NO_CRYPTO) from None
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    else:
        with open(file, "wb") as opened:
            opened.write(ECKey.generate_key("P-256").as_pem(private=True))
    try:
        return load(path).public
    except rb.AuthError as error:
        raise rb.ConfigurationError(f"--key is {printable(str(path))}; its {error}") from None


# -- the org


class _Emulation:
    """
    One run of `riskbatch emulate`.

    Args:
        options: What `add_options` has added.
        key_path: Where the private key of the service app is or will be; `None` for an org with an API token.
        stream: Where the lines go.
    """

    def __init__(self, options: argparse.Namespace, key_path: Path | None, stream: TextIO | None) -> None:
        self._options = options
        self._key_path = key_path
        self._stop = Stop()
        self._out = Printer(stream, self._stop)
        self._arrivals: deque[float] = deque()  # of the last period
        self._most = 0
        self._requests = 0
        self._accepted: Counter[str] = Counter()

    async def run(self) -> int:
        """Serve until SIGINT or SIGTERM, which is the good end."""
        from ..emulator import DEFAULT_TOKEN, OktaEmulator  # noqa: PLC0415 - `--help` needs no server

        options, limit = self._options, self._options.limit
        rb.ApiToken(options.token or DEFAULT_TOKEN)  # raises if no client could send such a token
        with self._stop.on_signals():
            async with OktaEmulator(
                port=options.port,
                limit=limit.requests,
                period=limit.period,
                window=options.window,
                token=options.token or DEFAULT_TOKEN,
                latency=options.latency,
                script=self._fault,
                on_judged=self._show,
            ) as self._okta:
                self._introduce(self._register(self._okta))
                await self._stop.asked.wait()
        self._out.say(
            f"\n{counted(self._requests, 'request')}, at most {self._most} in any {limit.period:g} s "
            f"(limit {limit.requests}); accepted: {self._out.mix(self._accepted, 0)}"
        )
        return PIPE_BROKEN if self._stop.status == PIPE_BROKEN else 0

    def _register(self, okta: "OktaEmulator") -> dict[str, str]:
        """Make the sender known to the org, and return the variables that name org and sender."""
        (provider,) = okta.org.providers.values()
        provider.update(name="Emulated", clientId=_CLIENT_ID, action="enforce_and_log")
        if self._key_path is None:
            names = ("OKTA_CLIENT_ORGURL", "OKTA_CLIENT_TOKEN", "OKTA_CLIENT_AUTHORIZATIONMODE")
            return {name: okta.environment[name] for name in names}
        dpop = not self._options.no_dpop
        okta.org.register_app(_CLIENT_ID, _load_or_make_key(self._key_path), scopes=_SCOPES, dpop=dpop)
        return {
            "OKTA_CLIENT_ORGURL": okta.url,
            "OKTA_CLIENT_AUTHORIZATIONMODE": "PrivateKey",
            "OKTA_CLIENT_CLIENTID": _CLIENT_ID,
            "OKTA_CLIENT_PRIVATEKEY": str(self._key_path),
            "OKTA_CLIENT_DPOPENABLED": str(dpop).lower(),
        }

    def _introduce(self, variables: dict[str, str]) -> None:
        say, limit = self._out.say, self._options.limit
        for name, value in variables.items():
            say(f"export {name}={shlex.quote(value)}")
        say(f"# A local Okta: {limit.requests} requests in {limit.period:g} s, {self._options.window} window.")
        say("# Paste the lines above into another terminal, and run `riskbatch doctor` or")
        say("# `riskbatch send FILE` there. Each request is shown here. Ctrl-C ends.")

    def _fault(self, _: "Exchange") -> "Fault | None":
        from ..emulator import Fault  # noqa: PLC0415 - as above

        return Fault.unavailable() if random.random() < self._options.fault else None

    # -- what arrives

    def _show(self, exchange: "Exchange") -> None:
        clock = time.strftime("%H:%M:%S")
        if not exchange.number:
            request = exchange.request
            what = printable(f"{request.method} {request.endpoint}", 46)
            self._out.say(f"{clock}         {what}  {self._answer(exchange)}")
            return
        levels = Counter(level for _, level in subjects(exchange.request.body))
        self._requests += 1
        if exchange.status == 202:
            self._accepted += levels
        self._count(exchange.arrived_at)
        limit = self._options.limit
        self._out.say(
            f"{clock}  {exchange.number:5}  {self._out.mix(levels, 23)}  "
            f"{len(self._arrivals)} of {limit.requests} in {limit.period:g} s  {self._answer(exchange)}"
        )
        self._okta.requests.clear()  # shown already; an emulator that runs for days must not keep them
        self._okta.signals.clear()

    def _answer(self, exchange: "Exchange") -> str:
        """Return status and error code, which is OAuth's at the token endpoint."""
        code, asked = exchange.error_code, self._okta.org.oauth.requests
        if asked:
            code = code or asked[-1].error
            asked.clear()
        return f"{exchange.status} {code or ''}".rstrip()

    def _count(self, arrived_at: float) -> None:
        self._arrivals.append(arrived_at)
        while self._arrivals[0] <= arrived_at - self._options.limit.period:
            self._arrivals.popleft()
        self._most = max(self._most, len(self._arrivals))
