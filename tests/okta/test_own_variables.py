"""What operators change without code: variables of riskbatch's own, beside those of the official SDK."""

import pytest

import riskbatch as rb
from riskbatch.okta.environment import client_options_from_env


@pytest.fixture
def set_variables(monkeypatch):
    for name in ("RISKBATCH_LIMIT", "RISKBATCH_LINGER"):
        monkeypatch.delenv(name, raising=False)

    def set_variables(**values):
        for name, value in values.items():
            monkeypatch.setenv(f"RISKBATCH_{name}", value)

    return set_variables


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {}),
        ({"LIMIT": "", "LINGER": " "}, {}),
        ({"LIMIT": "15/60s"}, {"limit": (15, 60.0)}),
        ({"LIMIT": " 60000/60 \n", "LINGER": "0\n"}, {"limit": (60000, 60.0), "linger": 0.0}),
        ({"LIMIT": "30/0.5s", "LINGER": "2.5"}, {"limit": (30, 0.5), "linger": 2.5}),
    ],
)
def test_limit_and_linger_are_read_where_they_are_set(values, expected, set_variables):
    """A variable that is not set, or empty, changes nothing; spaces and newlines around a value do not matter."""
    set_variables(**values)
    assert client_options_from_env() == expected


@pytest.mark.parametrize("value", ["15", "0/60s", "15/0s", "-1/60s", "15/60m", "1.5/60s", "15/60s x", "many", "٣/60s"])
def test_a_bad_limit_names_variable_value_and_what_is_right(value, set_variables):
    """An operator reads what to change."""
    set_variables(LIMIT=value)
    with pytest.raises(rb.ConfigurationError) as caught:
        client_options_from_env()
    assert str(caught.value) == f"RISKBATCH_LIMIT is {value!r}; it must be REQUESTS/SECONDS, such as 15/60s"


@pytest.mark.parametrize("value", ["-1", "2s", "nan", "inf", "1e3", "soon"])
def test_a_bad_linger_names_variable_value_and_what_is_right(value, set_variables):
    """An operator reads what to change."""
    set_variables(LINGER=value)
    with pytest.raises(rb.ConfigurationError) as caught:
        client_options_from_env()
    assert str(caught.value) == f"RISKBATCH_LINGER is {value!r}; it must be seconds, such as 0 or 2.5"


@pytest.mark.parametrize("limit", ["1/0.000000001s", "999999999/999999999.9s"])
def test_what_is_read_is_a_limit(limit, set_variables):
    """Every value that passes is one that `RateLimit` takes."""
    set_variables(LIMIT=limit)
    assert rb.RateLimit(*client_options_from_env()["limit"]).requests >= 1
