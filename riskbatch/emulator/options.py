"""
How an emulated org behaves: every option of `Org`, with what it means and its default.

Every option may be changed between two requests.
"""

from collections.abc import Callable
from typing import Literal, TypedDict

import attrs
from attrs import validators

from .errors import GONE
from .messages import ReceivedSignal
from .oauth import AccessToken
from .schema import MAX_SUBJECTS

DEFAULT_TOKEN = "00-this-is-not-a-secret-okta-emulator-token"  # noqa: S105 - opens nothing but the emulator

_Window = Literal["fixed", "sliding"]
_Shown = Literal["principal", "org"]
_Gone = Literal["E0000008", "E0000026", "E0000215"]


class _RateKeywords(TypedDict, total=False):
    limit: int
    period: float
    window: _Window
    phase: float | None
    principal_share: float
    header_limit: _Shown
    duplicate_headers: bool
    clock_skew: float


class OrgOptions(_RateKeywords, total=False):
    """The keywords of `Org`, as types; what each means stands at `RateOptions` and `Options`, in the same order."""

    concurrency: int
    max_subjects: int | None
    allow_unknown: bool
    name_causes: bool
    poison: Callable[[ReceivedSignal], bool] | None
    token: str
    token_valid: bool
    strict_token: bool
    access_tokens: dict[str, AccessToken]
    feature_enabled: bool
    removed: _Gone | None
    provider_registered: bool | None
    base_url: str


@attrs.define(kw_only=True, eq=False)
class RateOptions:
    """How many requests the org takes, and what its rate headers say."""

    limit: int = attrs.field(default=30, validator=validators.ge(1))
    """Calls per *period* for the whole org."""
    period: float = attrs.field(default=60.0, validator=validators.gt(0))
    """Seconds of one rate window."""
    window: _Window = attrs.field(default="fixed", validator=validators.in_(("fixed", "sliding")))
    """`fixed` as Okta documents it; `sliding` admits no more than *limit* in any *period*, which is stricter."""
    phase: float | None = None
    """An instant of the `now` clock at which a fixed window opens, and again every *period*; `None`: at first use."""
    principal_share: float = attrs.field(default=1.0, validator=[validators.gt(0), validators.le(1)])
    """What one token may use of *limit*; Okta's default for new tokens and apps is 0.5."""
    header_limit: _Shown = attrs.field(default="principal", validator=validators.in_(("principal", "org")))
    """Whose limit the rate headers show; *unverified*."""
    duplicate_headers: bool = False
    """Send a second set of rate headers, that of the wider /api/v1 bucket, before the one that counts."""
    clock_skew: float = 0.0
    """Seconds the org's clock is ahead of `wall`; moves Date and Reset alike."""


@attrs.define(kw_only=True, eq=False)
class Options(RateOptions):
    """What else an org can be told: its schema, its credentials, and what is switched off."""

    concurrency: int = attrs.field(default=75, validator=validators.ge(1))
    """Requests in flight at once: 75 in a Workforce org, 35 in a free one."""
    max_subjects: int | None = MAX_SUBJECTS
    """Subjects allowed in one event; `None` for no limit."""
    allow_unknown: bool = False
    """Accept unknown properties; what Okta does is *unverified*."""
    name_causes: bool = True
    """Name the bad field in errorCauses; without it a client has to find the bad signal itself."""
    poison: Callable[[ReceivedSignal], bool] | None = None
    """Signals for which this is true are refused like invalid ones, though they look valid."""
    token: str = attrs.field(default=DEFAULT_TOKEN, repr=False)
    """The one API token."""
    token_valid: bool = True
    """False: the API token is expired or revoked, 401 E0000011."""
    strict_token: bool = True
    """Demand exactly one space after SSWS; otherwise any number of them is accepted, none included."""
    access_tokens: dict[str, AccessToken] = attrs.field(factory=dict, repr=False)
    """The OAuth access tokens that are known; take one out to revoke it."""
    feature_enabled: bool = True
    """False: 401 E0000015."""
    removed: _Gone | None = attrs.field(default=None, validator=validators.in_((None, *GONE)))
    """The endpoint is gone and answers with this code (404, 404, 410); which one Okta will use is *unverified*."""
    provider_registered: bool | None = True
    """False: the caller is not the sender of a risk provider, 403 E0000006. `None`: `providers` decide."""
    base_url: str = ""
    """The org's URL, which assertions and proofs must name; if empty, http:// and the Host header."""
