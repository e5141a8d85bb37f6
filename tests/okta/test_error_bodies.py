"""What an answer that is not a success says."""

import pytest
from acme import oauth_answer
from multidict import CIMultiDict

from riskbatch.okta.error_bodies import oauth_error
from riskbatch.okta.http import Response
from riskbatch.okta.verdicts import AccessDenied, classify


@pytest.mark.parametrize(
    ("headers", "error", "description"),
    [
        (['DPoP error="use_dpop_nonce"'], "use_dpop_nonce", ""),
        (["DPoP error=use_dpop_nonce, realm=x"], "use_dpop_nonce", ""),
        (['Bearer realm="a, error=b", error="invalid_token", error_description="a \\"b\\""'], "invalid_token", 'a "b"'),
        (['Bearer error="invalid_token"', 'DPoP error="use_dpop_nonce"'], "use_dpop_nonce", ""),
        (['Basic realm="x"', 'Bearer error="invalid_token"'], "invalid_token", ""),
        (['Bearer realm="x"'], "", ""),
        (["Bearer " + 'error="' * 5000], "error=", ""),
    ],
)
def test_challenges_are_read(headers, error, description):
    """WWW-Authenticate in all its spellings; of several headers the one that can be answered at once counts."""
    response = Response(401, CIMultiDict([("WWW-Authenticate", header) for header in headers]), b"")
    told = oauth_error(response)
    assert (told.error, told.description) == (error, description)


def test_an_oauth_body_is_described_in_its_words():
    """What the server says in a JSON body is what a person reads."""
    verdict = classify(oauth_answer(403, "access_denied", "The client is elsewhere."))
    assert verdict.reason == "HTTP 403 access_denied The client is elsewhere."
    assert isinstance(classify(oauth_answer(400, "invalid_request", "Something.")), AccessDenied)
