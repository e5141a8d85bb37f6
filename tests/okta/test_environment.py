"""The environment variables of the official SDKs."""

import json
import os
import re

import pytest
from acme import ORG, ec_key, pem, rsa_key

import riskbatch as rb
from riskbatch.okta.providers import Providers


@pytest.fixture
def environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith("OKTA_"):
            monkeypatch.delenv(name)

    def put(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(f"OKTA_CLIENT_{name}", value)

    put(ORGURL=f"{ORG}/")
    return put


def test_a_service_app_comes_from_the_sdks_variables(environment, tmp_path):
    """Mode PrivateKey with id, key, kid, scopes and DPoP switch; the key as text, literal newlines, JSON or path."""
    path = tmp_path / "key.pem"
    path.write_text(pem(rsa_key()))
    environment(AUTHORIZATIONMODE="PrivateKey", CLIENTID="0oa1")
    for key in (
        pem(rsa_key()),
        pem(rsa_key()).replace("\n", "\\n"),
        json.dumps(ec_key().as_dict(private=True)),
        str(path),
    ):
        environment(PRIVATEKEY=key)
        made = rb.Client.from_env()._options["auth"]
        assert (made.client_id, made.scopes, made.dpop) == ("0oa1", ("okta.riskEvents.manage",), None)
    for dpop, expected in (("true", True), ("False", False), ("1", True), ("0", False), ("", None)):
        environment(SCOPES="okta.a,okta.b", KID="k1", DPOPENABLED=dpop)
        made = rb.Client.from_env()._options["auth"]
        assert (made.scopes, made.key_id, made.dpop) == (("okta.a", "okta.b"), "k1", expected)
    environment(SCOPES="okta.a okta.b")
    assert rb.Client.from_env()._options["auth"].scopes == ("okta.a", "okta.b")


JWK = json.dumps(ec_key().as_dict(private=True))


@pytest.mark.parametrize(
    ("variables", "error", "words"),
    [
        ({}, rb.ConfigurationError, "OKTA_CLIENT_TOKEN is not set"),
        ({"PRIVATEKEY": "x"}, rb.ConfigurationError, "AUTHORIZATIONMODE to PrivateKey"),
        ({"TOKEN": "a b"}, rb.AuthError, "^OKTA_CLIENT_TOKEN must"),
        ({"AUTHORIZATIONMODE": "Bearer"}, rb.ConfigurationError, "could not be renewed"),
        ({"AUTHORIZATIONMODE": "Basic"}, rb.ConfigurationError, "OKTA_CLIENT_AUTHORIZATIONMODE is 'Basic'"),
        ({"AUTHORIZATIONMODE": "PrivateKey"}, rb.ConfigurationError, "OKTA_CLIENT_CLIENTID"),
        ({"AUTHORIZATIONMODE": "PrivateKey", "CLIENTID": "0oa1"}, rb.ConfigurationError, "OKTA_CLIENT_PRIVATEKEY"),
        ({"AUTHORIZATIONMODE": "PrivateKey", "CLIENTID": "{c}", "PRIVATEKEY": JWK}, rb.AuthError, "_CLIENTID is still"),
        (
            {"AUTHORIZATIONMODE": "PrivateKey", "CLIENTID": "0oa1", "PRIVATEKEY": "not-a-key"},
            rb.AuthError,
            "^OKTA_CLIENT_PRIVATEKEY is neither",
        ),
        (
            {"AUTHORIZATIONMODE": "PrivateKey", "CLIENTID": "0oa1", "PRIVATEKEY": "x", "DPOPENABLED": "maybe"},
            rb.ConfigurationError,
            "OKTA_CLIENT_DPOPENABLED",
        ),
    ],
)
def test_errors_of_the_environment_name_the_variable(environment, variables, error, words):
    """Whoever reads the message knows which variable to mend; nothing of its value's secret is shown."""
    environment(**variables)
    with pytest.raises(error, match=words) as caught:
        rb.Client.from_env()
    assert "not-a-key" not in str(caught.value)
    assert caught.value.__context__ is None


def test_an_api_token_comes_from_the_environment(environment):
    """SSWS is the default mode."""
    environment(TOKEN="00token")
    assert rb.Client.from_env()._options["auth"] == rb.ApiToken("00token")


def test_what_is_mounted_as_a_file_may_end_in_a_newline(environment):
    """White space around any value is not part of it."""
    environment(ORGURL=f" {ORG}/\n", TOKEN="00token\r\n")
    client = rb.Client.from_env()
    assert (client.org_url, client._options["auth"]) == (ORG, rb.ApiToken("00token"))
    environment(AUTHORIZATIONMODE="PrivateKey\n", CLIENTID="0oa1\n", PRIVATEKEY=f"{JWK}\n", KID="k\n", DPOPENABLED=" ")
    made = rb.Client.from_env()._options["auth"]
    assert (made.client_id, made.key_id, made.dpop) == ("0oa1", "k", None)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("acme.okta.com", "^OKTA_CLIENT_ORGURL is 'acme.okta.com', without a scheme; it must be like https://"),
        ("http://acme.okta.com", "^OKTA_CLIENT_ORGURL is .* must begin with https://"),
        ("https://acme-admin.okta.com", "^OKTA_CLIENT_ORGURL is .* leave out the -admin"),
        ("who:hunter2@acme.okta.com", "^OKTA_CLIENT_ORGURL has credentials in it"),
        ("https://who:hunter2@acme.okta.com", "^OKTA_CLIENT_ORGURL has credentials in it"),
    ],
)
def test_a_wrong_url_names_its_variable(environment, url, words):
    """The words say which variable to change, and show no password."""
    environment(ORGURL=url, TOKEN="00token")
    for make in (rb.Client.from_env, Providers.from_env):
        with pytest.raises(rb.ConfigurationError, match=words) as caught:
            make()
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "given", "missing"),
    [
        ({}, {}, {"ORGURL", "TOKEN"}),
        ({"AUTHORIZATIONMODE": "PrivateKey"}, {}, {"ORGURL", "CLIENTID", "PRIVATEKEY"}),
        ({"AUTHORIZATIONMODE": "PrivateKey", "CLIENTID": " "}, {"org_url": ORG}, {"CLIENTID", "PRIVATEKEY"}),
        ({}, {"auth": rb.ApiToken("00token")}, {"ORGURL"}),
        ({"ORGURL": "\n"}, {}, {"ORGURL", "TOKEN"}),
    ],
)
def test_all_missing_variables_are_told_at_once(environment, monkeypatch, variables, given, missing):
    """And none that is not needed."""
    monkeypatch.delenv("OKTA_CLIENT_ORGURL")
    environment(**variables)
    with pytest.raises(rb.ConfigurationError) as caught:
        rb.Client.from_env(**given)
    assert set(re.findall(r"OKTA_CLIENT_(\w+) is not set", str(caught.value))) == missing
