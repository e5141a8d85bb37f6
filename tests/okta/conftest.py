"""The wall clock follows the virtual one, and no test may log a secret."""

import logging
from datetime import timedelta

import pytest
from acme import Wall, ec_key

from riskbatch.okta import renewal


@pytest.fixture(autouse=True)
def wall(monkeypatch):
    monkeypatch.setattr(renewal, "datetime", Wall)
    monkeypatch.setattr(Wall, "off", timedelta())
    return Wall


@pytest.fixture(autouse=True)
def _no_secret_is_logged(caplog):
    caplog.set_level(logging.DEBUG)
    yield
    assert "eyJ" not in caplog.text
    assert ec_key().as_dict(private=True)["d"] not in caplog.text
