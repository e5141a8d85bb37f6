"""`riskbatch doctor`: is everything in order for sending, and if not, what must be fixed, in plain words."""

import argparse
import asyncio
import json

from attrs import asdict

from ..okta.checkup import examine
from ..okta.findings import Finding
from ..okta.redaction import plain
from ..okta.transport import aiohttp_transport, open_session
from .terminal import NOT_ACCEPTED, counted

_MAX_TEXT = 600  # characters of a finding: what a server says must not flood a terminal


def doctor(options: argparse.Namespace) -> int:
    """
    Print what is found, and return 0 only if nothing must be fixed.

    It is a line for each finding, at once. With `--json` it is one object at the end: `findings`, a list of objects
    with `state` (`ok`, `mend` or `open`), `subject` and `text`; and `to_mend`, the number of those to fix.
    """
    return asyncio.run(_doctor(options))


async def _doctor(options: argparse.Namespace) -> int:
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


def line(finding: Finding) -> str:
    """Return a finding as one line that steers no terminal."""
    return f"{finding.state:5} {finding.subject:12} {plain(finding.text, _MAX_TEXT)}"
