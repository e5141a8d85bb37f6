"""A strict local Okta, for tests and demonstrations; it shares no code with the rest of the package."""

from .oauth import AccessToken, App
from .org import (
    DEFAULT_TOKEN,
    MAX_BODY,
    MAX_EVENTS,
    MAX_PROVIDERS,
    MAX_SUBJECTS,
    PROVIDERS_PATH,
    RISK_EVENTS_PATH,
    EmulatedRequest,
    EmulatedResponse,
    Exchange,
    Fault,
    OktaEmulator,
    Org,
    OrgOptions,
    ReceivedSignal,
)

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
