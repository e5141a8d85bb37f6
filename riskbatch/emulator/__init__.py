"""
A strict local Okta, for tests and demonstrations; it shares no code with the rest of the package.

`OktaEmulator` serves an `Org` over HTTP on a loopback port; `Org` alone decides without sockets or a clock.
"""

from .faults import Exchange, Fault
from .messages import EmulatedRequest, EmulatedResponse, ReceivedSignal
from .oauth import AccessToken, App
from .options import DEFAULT_TOKEN, OrgOptions
from .org import MAX_BODY, RISK_EVENTS_PATH, Org
from .providers import MAX_PROVIDERS, PROVIDERS_PATH
from .schema import MAX_EVENTS, MAX_SUBJECTS
from .server import OktaEmulator

__all__ = [
    "AccessToken",
    "App",
    "DEFAULT_TOKEN",
    "EmulatedRequest",
    "EmulatedResponse",
    "Exchange",
    "Fault",
    "MAX_BODY",
    "MAX_EVENTS",
    "MAX_PROVIDERS",
    "MAX_SUBJECTS",
    "OktaEmulator",
    "Org",
    "OrgOptions",
    "PROVIDERS_PATH",
    "RISK_EVENTS_PATH",
    "ReceivedSignal",
]
