"""`riskbatch doctor`: is everything in order for sending, and if not, what must be fixed, in plain words."""

import argparse
import asyncio
import json
from typing import TYPE_CHECKING

from attrs import asdict

from .exits import NOT_ACCEPTED
from .options import explain
from .terminal import counted

if TYPE_CHECKING:
    from ..okta.findings import Finding

HELP = "is everything in order for sending? if not, what must be fixed"

_MAX_TEXT = 600  # characters of a finding: what a server says must not flood a terminal


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to *parser*."""
    explain(
        parser,
        """\
Check the org and the credentials that the environment names: URL, proxy, reach,
TLS, clock, endpoint, credentials, scopes, risk provider and budget; and say in
plain words what to fix. It changes nothing, and sends no risk event unless --send
asks for one. A service app needs okta.riskProviders.read for the provider.""",
        "riskbatch doctor",
        "riskbatch doctor --send 203.0.113.7",
        """riskbatch doctor --json | jq -r '.findings[].text'""",
        "",
        "exit status: 0 all is well, 1 something must be fixed",
    )
    add = parser.add_argument
    add("--org-url", metavar="URL", help="instead of OKTA_CLIENT_ORGURL")
    add("--send", metavar="IP", help="really send a LOW signal for this address, and look at the budget")
    said = "print one object: findings, a list of {state: ok|mend|open, subject, text}, and to_mend, a number"
    add("--json", action="store_true", help=said)


def run(options: argparse.Namespace) -> int:
    """
    Print what is found, and return 0 only if nothing must be fixed.

    It is a line for each finding, at once. With `--json` it is one object at the end: `findings`, a list of objects
    with `state` (`ok`, `mend` or `open`), `subject` and `text`; and `to_mend`, the number of those to fix.
    """
    return asyncio.run(_doctor(options))


async def _doctor(options: argparse.Namespace) -> int:
    from ..okta.checkup import examine  # noqa: PLC0415 - imports aiohttp, which the options do not need
    from ..okta.redaction import plain  # noqa: PLC0415
    from ..okta.transport import aiohttp_transport, open_session  # noqa: PLC0415

    found = []
    async with open_session() as session:
        async for finding in examine(
            aiohttp_transport(session, env_proxies=True), options.org_url or None, options.send
        ):
            found.append(finding)
            if not options.json:
                print(line(finding), flush=True)
    faults = sum(finding.state == "mend" for finding in found)
    if options.json:
        findings = [asdict(finding) | {"text": plain(finding.text, _MAX_TEXT)} for finding in found]
        print(json.dumps({"findings": findings, "to_mend": faults}, indent=2))
    else:
        print("all is well" if not faults else f"{counted(faults, 'thing')} to mend")
    return NOT_ACCEPTED if faults else 0


def line(finding: "Finding") -> str:
    """Return a finding as one line that steers no terminal."""
    from ..okta.redaction import plain  # noqa: PLC0415

    return f"{finding.state:5} {finding.subject:12} {plain(finding.text, _MAX_TEXT)}"
