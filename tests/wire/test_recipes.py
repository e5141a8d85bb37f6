"""The recipes of the command line's page, with real jq."""

import asyncio
import re
import shutil
import sys
from pathlib import Path

import pytest
from test_cli_wire import counts, environment, scaled

import riskbatch

RECIPES = re.findall(r"```sh\n(jq .*?)```", (Path(riskbatch.__file__).parent / "cli/README.md").read_text(), re.DOTALL)
DATA = Path(__file__).parent.parent / "data" / "recipes"

EXPECTED = {
    "blacklist.json": [("203.0.113.1", "HIGH", None)],
    "decisions.json": [("203.0.113.1", "HIGH", "crowdsecurity-ssh-bf")],
    "eve.json": [("203.0.113.1", "MEDIUM", "GPL ATTACK_RESPONSE id check returned root")],
    "findings.json": [
        ("203.0.113.1", "HIGH", "UnauthorizedAccess-EC2-SSHBruteForce"),
        ("203.0.113.2", "MEDIUM", "Recon-IAMUser-TorIPCaller"),
    ],
    "system-log.json": [("203.0.113.1", "LOW", "User login to Okta")],
}


@pytest.mark.skipif(shutil.which("jq") is None, reason="needs jq")
@pytest.mark.parametrize("name", EXPECTED)
async def test_a_recipe_sends_what_it_says(name):
    """What a reader copies from the page works as it stands."""
    (recipe,) = [each for each in RECIPES if f" {name} " in each]
    command = recipe.replace("riskbatch send", f"{sys.executable} -m riskbatch send")
    async with scaled(latency=0) as okta:
        shell = await asyncio.create_subprocess_exec(
            "sh", "-c", command, cwd=DATA, env=environment(okta), stderr=asyncio.subprocess.PIPE
        )
        _, err = await asyncio.wait_for(shell.communicate(), 30)

        assert (shell.returncode, counts(err.decode())) == (0, {"accepted": len(EXPECTED[name])})
        assert sorted((each.ip, each.risk_level, each.message) for each in okta.signals) == EXPECTED[name]


def test_every_recipe_is_tried():
    assert len(RECIPES) == len(EXPECTED)
