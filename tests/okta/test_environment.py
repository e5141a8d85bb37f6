"""The environment variables of the official SDKs."""

import json
import os

import pytest
from acme import ORG, ec_key, pem, rsa_key

import riskbatch as rb


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
        made = rb.Client.from_env()._auth
        assert (made.client_id, made.scopes, made.dpop) == ("0oa1", ("okta.riskEvents.manage",), None)
    for dpop, expected in (("true", True), ("False", False), ("1", True), ("0", False), ("", None)):
        environment(SCOPES="okta.a,okta.b", KID="k1", DPOPENABLED=dpop)
        made = rb.Client.from_env()._auth
        assert (made.scopes, made.key_id, made.dpop) == (("okta.a", "okta.b"), "k1", expected)
    environment(SCOPES="okta.a okta.b")
    assert rb.Client.from_env()._auth.scopes == ("okta.a", "okta.b")


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
    assert rb.Client.from_env()._auth == rb.ApiToken("00token")
