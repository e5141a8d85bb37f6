"""No secret is shown, whatever a server echoes."""

import asyncio
import traceback

import pytest
from acme import ORG, START, Acme, answer, challenge, ec_key, oauth_answer, sending, signal

import riskbatch as rb
from riskbatch.okta.credentials import Now
from riskbatch.okta.http import Request


async def test_what_a_server_echoes_is_shown_nowhere(caplog):
    """Assertion, proof, token and key are masked in log, statistics, repr and outcomes, whole and in pieces."""
    acme = Acme()
    secret = ec_key().as_dict(private=True)["d"]
    echoed = []

    def script(is_token, request):
        parts = [
            secret,
            request.headers.get("DPoP", ""),
            request.headers.get("Authorization", ""),
            request.body.decode(),
        ]
        echoed.extend(part for text in parts for part in text.replace("=", " ").replace("&", " ").split() if part)
        loop = asyncio.get_running_loop()
        if is_token and loop.time() < 100:
            echo = parts[int(loop.time()) % 4] or secret
            return oauth_answer(401, "invalid_client", f"bad: {echo[40:]} / {echo}")
        if not is_token and loop.time() < 300:
            echo = [parts[2], parts[1], parts[2].partition(".")[2]][int(loop.time()) % 3]
            return challenge(403, "access_denied", f"bad: {echo[50:]} {echo[3:]}")
        if not is_token and loop.time() < 400:
            return answer(400, {"errorCode": "E0000001", "errorSummary": f"no: {parts[2]}"})
        return None

    acme.script = script
    shown = []
    async with sending(acme) as client:
        receipt = await client.enqueue(signal())
        for _ in range(40):
            await asyncio.sleep(10)
            shown += [repr(client), repr(client.statistics()), repr(receipt), repr(client._options["auth"])]
            shown += [repr(client._life.sender._credentials), str(client.statistics())]
        shown.append(repr(await receipt))
    shown.append(caplog.text)
    text = "\n".join(shown)
    assert "[redacted]" in text
    for part in echoed:
        for start in range(0, len(part) - 20, 7):
            assert part[start : start + 20] not in text or part[start : start + 12] in OPEN


OPEN = (
    "client_assertion_type client_assertion grant_type client_credentials okta.riskEvents.manage "
    "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer"
)


def test_reprs_and_errors_of_an_api_token_do_not_show_it():
    """An ApiToken is shown nowhere, and its header has one space."""
    token = rb.ApiToken("00-secret-token")
    signed = token.sign(Request("POST", ORG, {}, b""), Now(0.0, START))
    assert signed.headers["Authorization"] == "SSWS 00-secret-token"
    assert "secret" not in repr(token) + repr(signed) + str(token)
    assert "secret" not in token.redact("bad token 00-secret-token!")
    for bad in ("00 secret token", "", "{secret}", "secrét", "secret\n", None, 7):
        with pytest.raises(rb.AuthError) as caught:
            rb.ApiToken(bad)
        frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)][1:]
        assert "secret" not in str(caught.value)
        assert not any("token" in frame.f_locals for frame in frames)
