"""
Proofs of possession (DPoP), and the ids that may be used once.

It is stricter than Okta may be: ids are remembered for ever and are used up even by requests that are refused
afterwards, URLs are compared byte by byte, and nothing may be from the future.
Sources, read 2026-08-21: RFC 9449; developer.okta.com guide "Configure OAuth 2.0 Demonstrating Proof-of-Possession".
"""

import secrets
from collections.abc import Mapping
from typing import Any

from .errors import Denied
from .jwt import is_signed, is_time, read_jwt, thumbprint
from .messages import EmulatedRequest

_MAX_AGE = 300  # seconds
_NONCE_ROTATES = 24 * 3600.0  # seconds; guide "DPoP"
_NONCE_WORKS = 3 * 24 * 3600.0  # seconds after it was generated


def make_nonce() -> str:
    """Return a nonce that nobody can guess."""
    return secrets.token_urlsafe(24)


class UsedIds:
    """The jti of every assertion and proof with a good signature."""

    def __init__(self) -> None:
        self.in_order: list[str] = []
        self._known: set[str] = set()

    def use(self, jti: str) -> bool:
        """Remember *jti*, and return whether it is new."""
        self.in_order.append(jti)
        is_new = jti not in self._known
        self._known.add(jti)
        return is_new


Nonces = list[tuple[float, str]]
"""Nonces of the token endpoint, oldest first, each with the epoch seconds at which it was made."""


def renew_nonces(nonces: Nonces, wall: float) -> Nonces:
    """Return those of *nonces* that are less than three days old, and one more if the newest is a day old."""
    good = [(at, nonce) for at, nonce in nonces if wall < at + _NONCE_WORKS]
    if not good or wall >= good[-1][0] + _NONCE_ROTATES:
        good.append((wall, make_nonce()))
    return good


def check_proof(request: EmulatedRequest, url: str, used: UsedIds, wall: float) -> tuple[str, Mapping[str, Any]]:
    """Return thumbprint and claims of the one DPoP proof; its jti is used up even if it is refused afterwards."""
    jwk, claims = _signed_proof(request)
    jti, issued = claims.get("jti"), claims.get("iat")
    if not isinstance(jti, str) or not jti:
        raise _invalid("The DPoP proof JWT's 'jti' claim is missing.")
    if not used.use(f"proof {jti}"):
        raise _invalid("The DPoP proof JWT has already been used.")
    if claims.get("htm") != request.method:
        raise _invalid("The DPoP proof JWT's 'htm' claim is invalid.")
    if claims.get("htu") != url:
        raise _invalid("The DPoP proof JWT's 'htu' claim is invalid.")
    if not is_time(issued) or issued > wall:
        raise _invalid("The DPoP proof JWT was issued in the future.")
    if issued < wall - _MAX_AGE:
        raise _invalid("The DPoP proof JWT was issued more than five minutes in the past.")
    return thumbprint(jwk), claims


def _signed_proof(request: EmulatedRequest) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return public key and claims of the one DPoP proof, whose signature is good."""
    proofs = request.headers.getall("DPoP", ())
    if len(proofs) != 1:
        raise _invalid("The DPoP proof JWT header is missing." if not proofs else "There are several DPoP headers.")
    try:
        header, claims = read_jwt(proofs[0])
    except ValueError:
        raise _invalid("The DPoP proof JWT could not be parsed.") from None
    jwk = header.get("jwk")
    if header.get("typ") != "dpop+jwt":
        raise _invalid("The DPoP proof JWT's 'typ' header must be 'dpop+jwt'.")
    if not isinstance(jwk, dict) or {"d", "k", "p", "q"}.intersection(jwk):
        raise _invalid("The DPoP proof JWT's 'jwk' header must be a public key.")
    if not is_signed(proofs[0], header, [jwk]):
        raise _invalid("The DPoP proof JWT's signature or 'alg' is invalid.")
    return jwk, claims


def _invalid(description: str) -> Denied:
    return Denied(400, "invalid_dpop_proof", description)
