"""`riskbatch simulate`: is the budget enough for my traffic?"""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import ConfigurationError
from ..limiter import RateLimit
from ..signals import RiskLevel
from .exits import DONE
from .options import burst, explain, number, per_second, rate_limit, seconds
from .recorded import recorded
from .terminal import Screen, counted, duration, printable

if TYPE_CHECKING:
    from ..simulation import Arrival, Simulation, Traffic

_CLIENT_OPTIONS = {"reserve": 3, "subjects_per_event": 1, "coalesce": False, "capacity": 1_000_000}  # and defaults

HELP = "is the budget enough for my traffic? an hour in seconds"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to *parser*."""
    explain(
        parser,
        """\
Run the real client on a virtual clock against a local org without sockets, and
tell how long signals of each level would wait, what is left over, and what the
org would see. Traffic is given by rate, by bursts, or as a recorded feed whose
timestamps say when each signal came.""",
        "riskbatch simulate --high 1/s --low 40/s --compare",
        "riskbatch simulate --low 5/s --burst 300xHIGH/300s --plot waits.png",
        "riskbatch simulate --replay yesterday.jsonl --limit 15/60s",
    )
    _add_traffic(parser.add_argument_group("traffic"))
    _add_budget(parser.add_argument_group("the org and the client"))
    _add_output(parser.add_argument_group("what is shown"))


def _add_traffic(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    for level in RiskLevel:
        text = f"{level.value} signals, such as 5/s or 90/m"
        add(f"--{level.value.lower()}", metavar="RATE", type=per_second, default=0.0, help=text)
    text = "so many signals within a second, every so many seconds, plus or minus a fifth; may be given again"
    add("--burst", metavar="300xHIGH/300s", type=burst, action="append", default=[], help=text)
    add("--replay", metavar="FILE", help="a recorded feed instead, in any form that `send` reads")
    add(
        "--for",
        metavar="TIME",
        dest="seconds",
        type=seconds,
        help="how long, such as 90m; 1h or the length of the feed if not given",
    )
    add("--addresses", metavar="N", type=int, help="how many addresses report; each signal has its own if not given")
    add("--expires-after", metavar="TIME", type=seconds, help="signals that wait longer are not sent")
    add("--seed", metavar="N", type=int, default=0, help="another number makes other traffic of the same kind")


def _add_budget(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add(
        "--limit",
        metavar="30/60s",
        type=rate_limit,
        default=RateLimit(),
        help="requests that the org takes per time; 30/60s if not given",
    )
    add(
        "--window",
        choices=("fixed", "sliding"),
        default="fixed",
        help="how it counts them; fixed if not given, as Okta does",
    )
    add(
        "--latency",
        metavar="SECONDS",
        type=number(60.0),
        default=0.25,
        help="from a request to its answer; 0.25 if not given",
    )
    add(
        "--reserve",
        metavar="N",
        type=int,
        default=3,
        help="requests that only a payload with HIGH may use; 3 if not given",
    )
    add("--subjects-per-event", metavar="N", type=int, default=1, help="signals with equal times share an event")
    add("--coalesce", action="store_true", help="a newer signal for an address replaces the one that waits")
    text = "how many signals may wait before the oldest of the lowest level are dropped; 1000000 if not given"
    add("--capacity", metavar="N", type=int, default=1_000_000, help=text)


def _add_output(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add("--compare", action="store_true", help="beside it, the two clients that people make by hand")
    add("--plot", metavar="FILE.png", help="draw what waits, the waits and the requests over time (needs matplotlib)")
    text = (
        "one JSON object with traffic, budget, window, latency, seed, seconds, client, is_enough, verdict and clients"
    )
    add("--json", action="store_true", help=text)


def run(options: argparse.Namespace) -> int:
    """Run the command and return the exit status."""
    if options.replay is None and not (options.high or options.medium or options.low or options.burst):
        raise ConfigurationError("there is no traffic: give a rate such as --high 1/s, a --burst, or --replay FILE")
    from .. import simulation  # noqa: PLC0415 - imports aiohttp, which `riskbatch completion` does not need
    from ..simulation.plot import check_plot, plot  # noqa: PLC0415 - as above

    if options.plot:
        check_plot(options.plot)
    arrivals = None if options.replay is None else list(simulation.replay(recorded(options.replay)))
    screen = Screen(sys.stderr)
    simulated = _simulation(options, arrivals, screen)
    clients = [simulation.riskbatch]
    if options.compare:
        clients += [simulation.fifo_by_hand, simulation.priority_by_hand]
    try:
        results = [simulated.run(client) for client in clients]
    finally:
        screen.clear()
    setting = _setting(options, simulated.seconds, arrivals)
    if options.json:
        print(json.dumps(simulation.to_json(results, _setting_to_json(options, setting, simulated.seconds)), indent=2))
    else:
        print(simulation.report(results, setting))
    if options.plot:
        plot(results, options.plot, "\n".join(f"{name}: {text}" for name, text in setting.items()))
    return DONE


def _simulation(options: argparse.Namespace, arrivals: "list[Arrival] | None", screen: Screen) -> "Simulation":
    """Return what to simulate; on a terminal, a line on *screen* shows how far it is."""
    from ..simulation import Simulation  # noqa: PLC0415 - imports aiohttp

    def progress(name: str, share: float) -> None:
        if screen.tty:
            screen.draw(f"simulating {name}: {share:.0%}")

    traffic = _traffic(options)
    length = options.seconds or (max(60.0, arrivals[-1].at + 60.0) if arrivals else 3600.0)
    return Simulation(
        (lambda: traffic.arrivals(length, options.seed)) if arrivals is None else (lambda: arrivals),
        length,
        options.limit,
        options.latency,
        options.window,
        {name: getattr(options, name) for name in _CLIENT_OPTIONS} | {"when_full": "shed"},
        progress,
    )


def _traffic(options: argparse.Namespace) -> "Traffic":
    from ..simulation import Traffic  # noqa: PLC0415 - imports aiohttp

    rates = {level: getattr(options, level.value.lower()) for level in RiskLevel}
    return Traffic(rates, tuple(options.burst), options.addresses, options.expires_after)


# -- what was simulated


def _setting(options: argparse.Namespace, length: float, arrivals: "list[Arrival] | None") -> dict[str, str]:
    """Return what was simulated: the name and the text of each line of the report."""
    if arrivals is None:
        text, seed = str(_traffic(options)), {"seed": str(options.seed)}
    else:
        text, seed = f"{counted(len(arrivals), 'signal')} of {printable(options.replay, 200)}", {}
    limit = options.limit
    budget = f"{limit.requests} requests in {limit.period:g} s, {options.window} window"
    budget = f"{budget}, answers after {options.latency:g} s"
    return {"traffic": f"{text}; for {duration(length)}", "budget": budget, **seed, **_client(options)}


def _client(options: argparse.Namespace) -> dict[str, str]:
    """Return the line with the options of the client that are not as by default."""
    values = {name: getattr(options, name) for name in _CLIENT_OPTIONS}
    texts = [
        name.replace("_", " ") if value is True else f"{name.replace('_', ' ')} {value:,}"
        for name, value in values.items()
        if value != _CLIENT_OPTIONS[name]
    ]
    return {"client": ", ".join(texts)} if texts else {}


def _setting_to_json(options: argparse.Namespace, setting: Mapping[str, str], length: float) -> dict[str, object]:
    return {
        "traffic": setting["traffic"],
        "budget": {"requests": options.limit.requests, "period": options.limit.period},
        "window": options.window,
        "latency": options.latency,
        "seed": options.seed if options.replay is None else None,
        "seconds": length,
        "client": {name: getattr(options, name) for name in _CLIENT_OPTIONS},
    }
