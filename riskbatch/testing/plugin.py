"""
The pytest plugin of riskbatch: the fixture `riskbatch_okta`.

Ask for it in your `conftest.py`: `pytest_plugins = ["riskbatch.testing.plugin"]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..emulator import OktaEmulator


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", "riskbatch_okta(**options): arguments of the OktaEmulator in `riskbatch_okta`")


@pytest.fixture
def riskbatch_okta(request: pytest.FixtureRequest) -> Iterator[OktaEmulator]:
    """
    A strict local Okta, an `OktaEmulator` that runs in a thread of its own: for sync and async tests alike.

    Set the variables of `riskbatch_okta.environment` for a program that calls `Client.from_env()`, or pass `.url` and
    `.token` to its client; then look at `.signals` and `.requests`. The org takes 60,000 requests a minute, so that no
    test waits; `@pytest.mark.riskbatch_okta(limit=30)` gives it other arguments.
    """
    from . import serve_okta  # noqa: PLC0415 - aiohttp.web is loaded only where it is used

    marker = request.node.get_closest_marker("riskbatch_okta")
    with serve_okta(**(marker.kwargs if marker else {})) as okta:
        yield okta
