"""
The risk providers of an org: list, read, create, replace and delete them.

Source: okta-management-openapi-spec 2025.08.0, tag RiskProvider (read 2026-08-21).
"""

import secrets
from datetime import UTC, datetime
from typing import Any

from .errors import Refused
from .messages import EmulatedRequest, EmulatedResponse, is_media_type, json_response
from .schema import provider_problems, read_json

PROVIDERS_PATH = "/api/v1/risk/providers"
READ_PROVIDERS = ("okta.riskProviders.read", "okta.riskProviders.manage")
MANAGE_PROVIDERS = READ_PROVIDERS[1:]
MAX_PROVIDERS = 3  # spec, createRiskProvider

Providers = dict[str, dict[str, Any]]
"""Providers as the API shows them, by id."""


def default_provider() -> Providers:
    """Return the provider that Okta makes for every org; the space and the "null" are Okta's."""
    made = "2021-01-05 22:18:30"
    return {
        "00rp12r4skkjkjgsn": {
            "id": "00rp12r4skkjkjgsn", "name": "Default ", "clientId": "null", "action": "log_only",
            "created": made, "lastUpdated": made,
        }
    }  # fmt: skip


def is_registered(providers: Providers, client_id: str) -> bool:
    """Say whether *client_id* is the sender of one of *providers*."""
    return client_id in [provider["clientId"] for provider in providers.values()]


def scopes_for(method: str) -> tuple[str, ...]:
    """Return the scopes of which any one allows *method*."""
    return READ_PROVIDERS if method == "GET" else MANAGE_PROVIDERS


def answer_providers(providers: Providers, request: EmulatedRequest, org_url: str, wall: float) -> EmulatedResponse:
    """
    Do what *request* asks to *providers*, and return the answer; the credentials are checked already.

    Args:
        org_url: What links to a provider begin with.
        wall: Epoch seconds on the org's clock.
    """
    made = datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%d %H:%M:%S")
    if request.endpoint == PROVIDERS_PATH:
        if request.method == "GET":
            return json_response(200, [_shown(provider, org_url) for provider in providers.values()])
        return json_response(201, _shown(_create(providers, request, made), org_url))
    provider = _find(providers, request)
    if request.method == "DELETE":
        del providers[provider["id"]]
        return EmulatedResponse(204, ())
    if request.method == "PUT":
        provider |= _read(providers, request, provider["id"]) | {"lastUpdated": made}
    return json_response(200, _shown(provider, org_url))


def _create(providers: Providers, request: EmulatedRequest, made: str) -> dict[str, Any]:
    sent = _read(providers, request, None)
    if len(providers) >= MAX_PROVIDERS:
        raise Refused(400, "E0000001", causes=[f"no more than {MAX_PROVIDERS} providers"])  # *unverified* code
    provider = {"id": f"00rp{secrets.token_hex(8)}", **sent, "created": made, "lastUpdated": made}
    providers[provider["id"]] = provider
    return provider


def _find(providers: Providers, request: EmulatedRequest) -> dict[str, Any]:
    wanted = request.endpoint.removeprefix(f"{PROVIDERS_PATH}/")
    if wanted not in providers:
        raise Refused(404, "E0000007")
    return providers[wanted]


def _read(providers: Providers, request: EmulatedRequest, own_id: str | None) -> dict[str, str]:
    """Return what *request* says of the provider *own_id*, or of a new one if it is `None`."""
    if not is_media_type(request, "application/json"):
        raise Refused(400, "E0000021")
    value: Any = read_json(request.body)
    causes = list(provider_problems(value))
    others = [provider["name"] for provider in providers.values() if provider["id"] != own_id]
    if not causes and value["name"] in others:
        causes.append("name: must be unique")
    if causes:
        raise Refused(400, "E0000001", causes=causes)
    return {"name": value["name"], "clientId": value["clientId"], "action": value.get("action", "log_only")}


def _shown(provider: dict[str, Any], org_url: str) -> dict[str, Any]:
    href = f"{org_url}{PROVIDERS_PATH}/{provider['id']}"
    return {**provider, "_links": {"self": {"href": href, "hints": {"allow": ["GET", "PUT", "DELETE"]}}}}
