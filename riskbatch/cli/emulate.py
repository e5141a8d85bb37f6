"""`riskbatch emulate`: a strict local Okta to send to."""

import argparse

import riskbatch as rb

from .demo import emulate
from .options import explain, number, port, rate_limit

HELP = "run a strict local Okta to send to"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to *parser*."""
    explain(
        parser,
        "Run a strict local Okta org until Ctrl-C, and print what to export so that\n`riskbatch send` finds it.",
        "riskbatch emulate --port 8080",
        "riskbatch emulate --limit 15/60s --window sliding --latency 0.3 --fault 0.05",
    )
    add = parser.add_argument
    add("--port", type=port, default=0, help="on 127.0.0.1; any free one if not given")
    add(
        "--limit",
        metavar="30/60s",
        type=rate_limit,
        default=rb.RateLimit(),
        help="requests that the org takes per time",
    )
    add("--window", choices=("fixed", "sliding"), default="fixed", help="how it counts them; fixed, as Okta does")
    add("--latency", metavar="SECONDS", type=number(86400.0), default=0.1, help="until an answer; 0.1")
    add("--token", help="the API token that it takes")
    add("--fault", metavar="SHARE", type=number(1.0), default=0.0, help="of the requests that get a 503, such as 0.05")


def run(options: argparse.Namespace) -> int:
    """Run the command and return the exit status."""
    return emulate(options)
