"""
JSON Web Tokens as the org reads and checks them, with `cryptography` itself.

The crypto library is imported only when a signature is to be checked, so the emulator works without it until an app
signs something. Sources: RFC 7515, 7517, 7518 and 7638.
"""

import hashlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

ALGORITHMS = "RS256 RS384 RS512 ES256 ES384 ES512"

_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}

Jwk = Mapping[str, Any]
"""A public key."""


def to_base64url(raw: bytes) -> str:
    """Return *raw* as base64url without padding."""
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _from_base64url(text: str) -> bytes:
    if "=" in text or not text.isascii():
        raise ValueError("not base64url without padding")
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def digest(text: str) -> str:
    """Return the SHA-256 of *text* in base64url."""
    return to_base64url(hashlib.sha256(text.encode()).digest())


def is_time(value: object) -> TypeGuard[int]:
    """Say whether *value* is a NumericDate in whole seconds."""
    return isinstance(value, int) and not isinstance(value, bool)


def read_jwt(jwt: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return header and claims; raise ValueError if *jwt* has none."""
    parts = jwt.split(".")
    if len(parts) != 3:
        raise ValueError("not three parts")
    header, claims = (json.loads(_from_base64url(part)) for part in parts[:2])
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise ValueError("not objects")
    return header, claims


def thumbprint(jwk: Jwk) -> str:
    """Return the thumbprint of RFC 7638: the required members in lexical order."""
    names = ("crv", "kty", "x", "y") if jwk.get("kty") == "EC" else ("e", "kty", "n")
    return digest(json.dumps({name: jwk[name] for name in names}, separators=(",", ":")))


def matching_keys(keys: Sequence[Jwk], header: Mapping[str, Any]) -> list[Jwk]:
    """Return the keys that the header's kid may mean: with several keys it must name one."""
    kid = header.get("kid")
    if kid is None:
        return list(keys) if len(keys) == 1 else []
    return [key for key in keys if key.get("kid") == kid]


def is_signed(jwt: str, header: Mapping[str, Any], keys: Sequence[Jwk]) -> bool:
    """Say whether *jwt* is signed by the one key in *keys*, with an algorithm that Okta takes and the key allows."""
    algorithm = header.get("alg")
    if algorithm not in ALGORITHMS.split() or len(keys) != 1 or keys[0].get("alg", algorithm) != algorithm:
        return False
    signed, _, signature = jwt.rpartition(".")
    verify = _verify_rsa if algorithm.startswith("RS") else _verify_ec
    try:
        return verify(algorithm, keys[0], signed.encode("ascii"), _from_base64url(signature))
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _number(jwk: Jwk, name: str) -> int:
    return int.from_bytes(_from_base64url(jwk[name]), "big")


def _verify_rsa(algorithm: str, jwk: Jwk, signed: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - only where OAuth is used
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import padding, rsa  # noqa: PLC0415

    hash_ = {"RS256": hashes.SHA256(), "RS384": hashes.SHA384(), "RS512": hashes.SHA512()}[algorithm]
    public = rsa.RSAPublicNumbers(_number(jwk, "e"), _number(jwk, "n")).public_key()
    try:
        public.verify(signature, signed, padding.PKCS1v15(), hash_)
    except InvalidSignature:
        return False
    return bool(jwk.get("kty") == "RSA")


def _verify_ec(algorithm: str, jwk: Jwk, signed: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - only where OAuth is used
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, utils  # noqa: PLC0415

    hash_ = {"ES256": hashes.SHA256(), "ES384": hashes.SHA384(), "ES512": hashes.SHA512()}[algorithm]
    curve = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}[algorithm]
    size = (curve.key_size + 7) // 8
    if jwk.get("kty") != "EC" or jwk.get("crv") != _CURVES[algorithm] or len(signature) != 2 * size:
        return False
    r, s = (int.from_bytes(half, "big") for half in (signature[:size], signature[size:]))
    public = ec.EllipticCurvePublicNumbers(_number(jwk, "x"), _number(jwk, "y"), curve).public_key()
    try:
        public.verify(utils.encode_dss_signature(r, s), signed, ec.ECDSA(hash_))
    except InvalidSignature:
        return False
    return True
