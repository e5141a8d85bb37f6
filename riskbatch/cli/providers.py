"""`riskbatch providers`: who may send risk events, and what Okta does with them."""

import argparse
import asyncio
import json
from typing import TYPE_CHECKING

from .exits import DONE
from .options import explain
from .terminal import printable

if TYPE_CHECKING:
    from ..okta.providers import RiskProvider

HELP = "list, create or change who may send, and what Okta does with it"

_VERBS = {
    "list": "show the risk providers of the org",
    "create": "make a risk provider for a service app",
    "update": "change the name, the client id or the action of a risk provider",
}

_ACTIONS = ("none", "log_only", "enforce_and_log")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to *parser*."""
    explain(
        parser,
        """\
The risk providers of the org that OKTA_CLIENT_ORGURL names: at most three. A
sender must be one before its first event, by the client id of its app, and what
it sends changes nothing at sign-in until its action is enforce_and_log. A service
app needs the scope okta.riskProviders.manage (okta.riskProviders.read to list).""",
        "riskbatch providers list",
        "riskbatch providers list --json",
        "riskbatch providers update Default --action enforce_and_log",
        "riskbatch providers create 'Edge detection' --client-id 0oa1234",
    )
    verbs = parser.add_subparsers(title="what to do", metavar="VERB", dest="verb", required=True)
    for verb, line in _VERBS.items():
        each = verbs.add_parser(verb, help=line, description=f"{line.capitalize()}.")
        each.add_argument("--org-url", metavar="URL", help="instead of OKTA_CLIENT_ORGURL")
        each.add_argument(
            "--json",
            action="store_true",
            help='one JSON object: "providers" is a list of objects with name, client_id, action, id, created and '
            "last_updated",
        )
        if verb != "list":
            _add_changes(each, verb)


def _add_changes(parser: argparse.ArgumentParser, verb: str) -> None:
    is_new = verb == "create"
    name = "the name of the new provider" if is_new else "the name or the id of the provider"
    parser.add_argument("name", metavar="NAME", help=name)
    parser.add_argument(
        "--client-id", required=is_new, metavar="ID", help="the client id of the service app that sends"
    )
    default = "log_only" if is_new else None
    parser.add_argument(
        "--action",
        default=default,
        choices=_ACTIONS,
        help="what Okta does with the events" + ("; log_only if not given" if is_new else ""),
    )
    if not is_new:
        parser.add_argument("--name", dest="new_name", metavar="NEW", help="a new name")


def run(options: argparse.Namespace) -> int:
    """Run the command and return the exit status."""
    found = asyncio.run(_call(options))
    if options.json:
        print(json.dumps({"providers": [_to_json(each) for each in found]}, indent=2))
    else:
        _show(found)
    return DONE


async def _call(options: argparse.Namespace) -> "list[RiskProvider]":
    from ..okta.providers import MANAGE_SCOPE, READ_SCOPE, Providers  # noqa: PLC0415 - imports aiohttp

    scope = READ_SCOPE if options.verb == "list" else MANAGE_SCOPE
    async with Providers.from_env(scope=scope, org_url=options.org_url) as providers:
        if options.verb == "create":
            return [await providers.create(options.name, options.client_id, options.action)]
        if options.verb == "update":
            changes = {"name": options.new_name, "client_id": options.client_id, "action": options.action}
            return [await providers.update(options.name, **changes)]
        return list(await providers.list())


def _to_json(provider: "RiskProvider") -> dict[str, str]:
    names = ("name", "client_id", "action", "id", "created", "last_updated")
    return {name: getattr(provider, name) for name in names}


def _show(found: "list[RiskProvider]") -> None:
    print(f"{'name':24} {'action':16} {'client id':24} id")
    for each in found:
        name, action, client_id, id_ = map(printable, (each.name, each.action, each.client_id, each.id))
        print(f"{name:24} {action:16} {client_id:24} {id_}")
