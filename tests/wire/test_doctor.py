"""`riskbatch doctor` against a strict org in every state that must be mended: it says which, in plain words."""

import asyncio
import json
import re
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from joserfc.jwk import ECKey
from multidict import CIMultiDict
from raw_server import raw_server, says

from riskbatch.cli import main
from riskbatch.cli.doctor import line
from riskbatch.emulator import RISK_EVENTS_PATH, Fault
from riskbatch.okta.findings import Finding, budget, clock, endpoint, registration, sending, unreached
from riskbatch.okta.http import Response
from riskbatch.okta.providers import MANAGE_SCOPE, READ_SCOPE, RiskProvider

SEND_SCOPE = "okta.riskEvents.manage"
KEY = ECKey.generate_key("P-256")

pytestmark = pytest.mark.riskbatch_okta(limit=30)  # a real org's budget, which these tests use up


@pytest.fixture
def okta(riskbatch_okta, monkeypatch):
    """An org in which all is well, with its API token in the environment."""
    okta = riskbatch_okta
    use(okta, "0oa1", "enforce_and_log")
    okta.org.register_app("0oa1", KEY.as_dict(private=False), scopes=(SEND_SCOPE, READ_SCOPE))
    monkeypatch.setenv("OKTA_CLIENT_ORGURL", okta.url)
    monkeypatch.setenv("OKTA_CLIENT_TOKEN", okta.token)
    return okta


@pytest.fixture
def app(okta, monkeypatch):
    """The same with a service app."""
    monkeypatch.setenv("OKTA_CLIENT_AUTHORIZATIONMODE", "PrivateKey")
    monkeypatch.setenv("OKTA_CLIENT_CLIENTID", "0oa1")
    monkeypatch.setenv("OKTA_CLIENT_PRIVATEKEY", KEY.as_pem(private=True).decode())
    monkeypatch.delenv("OKTA_CLIENT_TOKEN")
    return okta.org.oauth.apps["0oa1"]


def use(okta, client_id, action):
    (provider,) = okta.org.providers.values()
    provider.update(name="Edge", clientId=client_id, action=action)


@pytest.fixture
def doctor(capsys):
    def run(*arguments):
        """The exit status, and what is said of each thing."""
        status = main(["doctor", *arguments])
        lines = [re.fullmatch(r"(ok|mend|open) +(\w+) +(.+)", line) for line in capsys.readouterr().out.splitlines()]
        return status, {line[2]: (line[1], line[3]) for line in lines if line}

    return run


def ailing(found):
    return {thing for thing, (state, _) in found.items() if state == "mend"}


THINGS = {"url", "endpoint", "clock", "credentials", "provider", "budget"}


def test_with_an_api_token_all_is_well_and_nothing_is_sent(okta, doctor):
    """Exit status 0, every thing is looked at, the budget is left open, and the org has got no signal."""
    status, found = doctor()
    assert status == 0
    assert set(found) == THINGS
    assert ailing(found) == set()
    assert found["budget"][0] == "open"
    assert okta.signals == []
    assert {exchange.request.method for exchange in okta.requests} == {"GET"}


@pytest.mark.parametrize("dpop", [True, False])
def test_with_a_service_app_all_is_well(okta, app, doctor, dpop):
    """The same with either kind of access token."""
    app.dpop = dpop
    status, found = doctor()
    assert (status, ailing(found), set(found)) == (0, set(), THINGS)
    assert SEND_SCOPE in found["credentials"][1]
    assert okta.signals == []


def test_send_really_sends_one_signal_and_tells_the_budget(okta, app, doctor):
    """Only where it is asked for: one LOW for the address, and the budget that comes with the answer."""
    okta.org.principal_share = 0.5
    status, found = doctor("--send", "203.0.113.7")
    assert status == 0
    assert [(each.ip, each.risk_level) for each in okta.signals] == [("203.0.113.7", "LOW")]
    assert found["budget"] == (
        "ok",
        "15 requests a window, of which 14 are left; less than the org's 30, and the client keeps to it by itself",
    )
    assert doctor("--send", "nonsense")[0] == 1


def lower_scopes(*scopes):
    return lambda okta: setattr(okta.org.oauth.apps["0oa1"], "scopes", set(scopes))


BY_TOKEN = {
    "wrong token": (lambda o: setattr(o.org, "token", "another"), "credentials", "wrong, expired or revoked"),
    "expired token": (lambda o: setattr(o.org, "token_valid", False), "credentials", "Invalid token provided"),
    "clock ahead": (lambda o: setattr(o.org, "clock_skew", -400.0), "clock", r"yours is (399|400|401) s ahead of"),
    "clock behind": (lambda o: setattr(o.org, "clock_skew", 400.0), "clock", r"yours is (399|400|401) s behind"),
    "removed": (lambda o: setattr(o.org, "removed", "E0000026"), "endpoint", "not there any more.*successor"),
    "gone": (lambda o: setattr(o.org, "removed", "E0000215"), "endpoint", "not there any more"),
    "no provider": (lambda o: use(o, "null", "log_only"), "provider", "providers update Default --client-id"),
    "log_only": (lambda o: use(o, "0oa1", "log_only"), "provider", "'Edge' is log_only.*--action enforce_and_log"),
}
BY_APP = {
    "log_only": (lambda o: use(o, "0oa1", "log_only"), "provider", "is log_only, so its events change nothing"),
    "clock ahead": (lambda o: setattr(o.org, "clock_skew", -400.0), "clock", r"yours is (399|400|401) s ahead of"),
    "ignored": (lambda o: use(o, "0oa1", "none"), "provider", "is none, so"),
    "another's provider": (lambda o: use(o, "0oa2", "enforce_and_log"), "provider", "client id 0oa1.*--client-id 0oa1"),
    "scope not granted": (lower_scopes(READ_SCOPE), "credentials", f"grant {SEND_SCOPE} to the app"),
    "no scope for providers": (lower_scopes(SEND_SCOPE), "provider", f"grant {READ_SCOPE} to the app"),
    "no role": (lambda o: setattr(o.org.oauth.apps["0oa1"], "has_role", False), "provider", "assign an admin role"),
    "wrong key": (lambda o: o.org.oauth.apps["0oa1"].keys.clear(), "credentials", "not those of the app"),
    "unknown app": (lambda o: o.org.oauth.apps.clear(), "credentials", "not those of the app"),
}


@pytest.mark.parametrize("name", BY_TOKEN)
def test_what_must_be_mended_with_an_api_token(okta, doctor, name):
    """One thing is wrong: that thing alone must be mended, the words say how, and the exit status is 1."""
    break_it, thing, words = BY_TOKEN[name]
    break_it(okta)
    status, found = doctor()
    assert status == 1
    assert ailing(found) == {thing}
    assert re.search(words, found[thing][1]), found
    assert okta.signals == []


@pytest.mark.parametrize("name", BY_APP)
def test_what_must_be_mended_with_a_service_app(okta, app, doctor, name):
    """The same, where scopes, roles and keys can be wrong as well."""
    break_it, thing, words = BY_APP[name]
    break_it(okta)
    status, found = doctor()
    assert status == 1
    assert ailing(found) == {thing}
    assert re.search(words, found[thing][1]), found


def test_the_scope_to_manage_will_do_as_well(okta, app, doctor):
    """Who may manage providers may list them."""
    app.scopes = {SEND_SCOPE, MANAGE_SCOPE}
    assert doctor()[0] == 0


@pytest.mark.parametrize(
    ("variables", "thing", "words"),
    [
        ({"ORGURL": ""}, "url", "OKTA_CLIENT_ORGURL is not set"),
        ({"ORGURL": "https://acme-admin.okta.com"}, "url", "leave out the -admin"),
        ({"ORGURL": "http://127.0.0.1:9"}, "reach", "nobody answers there"),
        ({"TOKEN": ""}, "credentials", "OKTA_CLIENT_TOKEN is not set"),
        ({"AUTHORIZATIONMODE": "PrivateKey", "SCOPES": "a"}, "credentials", "OKTA_CLIENT_CLIENTID is not set"),
    ],
)
def test_what_the_environment_has_wrong_is_named(okta, doctor, monkeypatch, variables, thing, words):
    """What cannot work is said without a traceback."""
    for name, value in variables.items():
        monkeypatch.setenv(f"OKTA_CLIENT_{name}", value)
    status, found = doctor()
    assert status == 1
    assert found[thing][0] == "mend"
    assert words in found[thing][1]


def test_scopes_in_the_environment_that_lack_the_one_for_sending_are_named(okta, app, doctor, monkeypatch):
    """The client would ask for what is there, and every event would be refused."""
    monkeypatch.setenv("OKTA_CLIENT_SCOPES", READ_SCOPE)
    status, found = doctor()
    assert status == 1
    assert "OKTA_CLIENT_SCOPES must have okta.riskEvents.manage" in found["credentials"][1]


def test_tls_spoken_to_a_plain_port_is_said(okta, doctor):
    """A typing error in the port."""
    status, found = doctor("--org-url", okta.url.replace("http:", "https:"))
    assert status == 1
    assert "nobody speaks TLS there" in found["reach"][1]


async def test_a_certificate_that_is_not_trusted_is_said(okta, doctor, tmp_path):
    """As of a proxy that opens TLS."""
    async with https(tmp_path) as url:
        status, found = await asyncio.to_thread(doctor, "--org-url", url)
    assert status == 1
    assert "the certificate is not trusted" in found["reach"][1]
    assert "SSL_CERT_FILE" in found["reach"][1]


class https:  # noqa: N801 - reads as what it is
    """A server with a certificate of its own making."""

    def __init__(self, path):
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "localhost")])
        builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        (path / "key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
        (path / "cert").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(path / "cert", path / "key")

    async def __aenter__(self):
        self.runner = web.AppRunner(web.Application())
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0, ssl_context=self.context).start()
        return f"https://127.0.0.1:{self.runner.addresses[0][1]}"

    async def __aexit__(self, *_):
        await self.runner.cleanup()


SENDING = {
    "used up": (lambda o: o.spend(30), {"sending", "budget"}, "the org's budget is used up"),
    "not a provider": (lambda o: setattr(o.org, "provider_registered", False), {"sending"}, "is the sender a risk"),
    "no feature": (lambda o: setattr(o.org, "feature_enabled", False), {"sending"}, "access the feature"),
    "failing": (lambda o: o.faults.append(Fault.unavailable().only_if(is_post)), {"sending"}, "fails at the moment"),
    "silent": (lambda o: o.faults.append(Fault.drop().only_if(is_post)), {"sending"}, "Server disconnected"),
}


def is_post(exchange):
    return exchange.request.method == "POST" and exchange.request.path == RISK_EVENTS_PATH


@pytest.mark.parametrize("name", SENDING)
def test_what_only_a_real_signal_shows(okta, doctor, name):
    """With --send, what Okta says to an event is judged as well."""
    break_it, things, words = SENDING[name]
    break_it(okta)
    status, found = doctor("--send", "203.0.113.7")
    assert status == 1
    assert ailing(found) == things
    assert words in found["sending"][1], found
    assert okta.signals == []


@pytest.mark.parametrize("code", ["E0000008", "E0000026", "E0000215"])
@pytest.mark.parametrize("use_app", [True, False])
def test_an_api_that_is_gone_needs_no_provider(okta, doctor, request, code, use_app):
    """There is one thing to say, what to do with what waits, and no advice about providers and budgets."""
    if use_app:
        request.getfixturevalue("app")
    okta.org.removed = code
    use(okta, "null", "log_only")
    status, found = doctor("--send", "203.0.113.7")
    assert (status, ailing(found)) == (1, {"endpoint"})
    assert set(found) == {"url", "endpoint", "clock", "credentials"}
    assert "deprecated" in found["endpoint"][1]
    assert "`riskbatch queue export`" in found["endpoint"][1]


async def test_a_404_of_another_server_is_told_with_its_doubt(doctor, monkeypatch):
    """Who answers so may be the wrong host, or Okta's own edge."""
    async with raw_server(says(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")) as url:
        monkeypatch.setenv("OKTA_CLIENT_TOKEN", "00token")
        status, found = await asyncio.to_thread(doctor, "--org-url", url)
    assert status == 1
    assert "not there any more" in found["endpoint"][1]
    assert "does not look like Okta" in found["endpoint"][1]
    assert "provider" not in found


def test_all_that_is_missing_is_said_at_once(doctor, monkeypatch):
    """Nobody sets one variable after the other."""
    for name in ("ORGURL", "TOKEN"):
        monkeypatch.delenv(f"OKTA_CLIENT_{name}", raising=False)
    status, found = doctor()
    assert status == 1
    assert "OKTA_CLIENT_ORGURL is not set" in found["url"][1]
    assert "OKTA_CLIENT_TOKEN is not set" in found["credentials"][1]


@pytest.mark.parametrize("valid", [True, False])
def test_as_json_it_is_one_object(okta, capsys, valid):
    """A program reads the same findings, each with state, subject and text."""
    okta.org.token_valid = valid
    assert main(["doctor", "--json"]) == (0 if valid else 1)
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"findings", "to_mend"}
    assert told["to_mend"] == (0 if valid else 1)
    assert all(set(finding) == {"state", "subject", "text"} for finding in told["findings"])
    states = {finding["subject"]: finding["state"] for finding in told["findings"]}
    assert states["credentials"] == ("ok" if valid else "mend")
    assert states["url"] == "ok"


def test_a_token_is_never_shown(okta, doctor, monkeypatch, capsys):
    """Whatever a server echoes."""
    monkeypatch.setenv("OKTA_CLIENT_TOKEN", "00secret-secret-secret")
    echo = b'{"errorCode": "E0000011", "errorSummary": "no 00secret-secret-secret"}'
    okta.faults.append(Fault.answer(403, [("Content-Type", "application/json")], echo).only_if(is_post))
    main(["doctor", "--send", "203.0.113.7"])
    assert "secret" not in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ the judgements alone


def answer(status, **headers):
    return Response(status, CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()}), b"")


@pytest.mark.parametrize(
    ("finding", "state", "words"),
    [
        (endpoint(answer(302, Location="https://elsewhere")), "mend", "redirects"),
        (endpoint(answer(200)), "mend", "does not look like Okta"),
        (endpoint(answer(503, X_Okta_Request_Id="1")), "mend", "fails at the moment"),
        (endpoint(answer(405, X_Okta_Request_Id="1")), "ok", "is there"),
        (endpoint(answer(401, X_Okta_Request_Id="1")), "ok", "is there"),
        (clock(answer(405), datetime.now(UTC)), "open", "no Date"),
        (budget(answer(202)), "open", "no rate-limit headers"),
        (sending(answer(202), ""), "ok", "one LOW signal"),
        (registration([RiskProvider("A", "0oa1"), RiskProvider("B", "0oa1", "enforce_and_log")], "0oa1"), "ok", "'B'"),
    ],
)
def test_other_answers(finding, state, words):
    """What the emulator does not answer."""
    assert finding.state == state
    assert words in finding.text


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("ClientConnectorDNSError: Cannot connect to host nobody.invalid:443", "the name is not known"),
        ("ConnectionTimeoutError: Connection timeout to host", "firewall or proxy"),
        ("no answer within 30 s", "firewall or proxy"),
        ("ClientOSError: [Errno 104] Connection reset by peer", "nobody answers there"),
    ],
)
def test_what_no_answer_means(reason, words):
    """Each kind of silence has its own mending."""
    assert words in unreached(reason).text
    assert reason in unreached(reason).text


def test_a_finding_is_one_line_that_steers_no_terminal():
    """A server's words are printable and bounded."""
    shown = line(Finding("mend", "reach", "\x1b[31m\nred" * 1000))
    assert shown.isprintable()
    assert len(shown) < 700
