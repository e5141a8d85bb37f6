"""
Private keys: what users have (PEM text, a JWK, a file) to what signs a JSON Web Token.

The only file that knows the crypto library, and imported only when a `ServiceApp` is made. It is joserfc, because one
small, typed, maintained package on top of `cryptography` gives PEM, JWK and signatures and refuses a curve that does
not fit the algorithm, where PyJWT leaves JWKs of private keys and their pairing with algorithms to its caller.

No error here shows what was given: it is raised after the library's own has been dropped, so not even its context does.
"""

import json
import os
import re
import warnings
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from ..errors import AuthError

# Okta takes these for both assertions and proofs (guides "Implement OAuth for Okta" and "DPoP", read 2026-08-21).
_RSA = ("RS256", "RS384", "RS512")
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_ALGORITHMS = [*_RSA, *_CURVES.values()]
_RSA_BITS = 2048  # the least that RFC 7518 section 3.3 lets sign
_MAX_KEY_FILE = 64 * 1024  # characters of a key file; the longest key has some 13,000
_MATERIAL = ("kty", "n", "e", "d", "p", "q", "dp", "dq", "qi", "crv", "x", "y")  # of a JWK, RFC 7518 section 6
_SECRET = ("d", "p", "q", "dp", "dq", "qi")
_PEM_BODY = re.compile(r"-----BEGIN[^-]*-----(.*?)-----END", re.DOTALL)


class SigningKey:
    """
    A private key and the algorithm it signs with.

    Attributes:
        algorithm: Such as `RS256`.
        key_id: The `kid` of the JWK it came from, if any.
        secrets: The texts that must never be shown.
    """

    __slots__ = ("_key", "algorithm", "key_id", "secrets")

    def __init__(
        self, key: RSAKey | ECKey, algorithm: str | None, key_id: str | None, secrets: tuple[str, ...]
    ) -> None:
        self._key = key
        self.algorithm: str = algorithm or _default_algorithm(key)
        self.key_id: str | None = key_id
        self.secrets: tuple[str, ...] = secrets
        _check(key, self.algorithm)

    def __repr__(self) -> str:
        return f"<SigningKey {self.algorithm}>"

    @classmethod
    def generate(cls) -> "SigningKey":
        """Make a new key for ES256, which takes a fraction of a millisecond."""
        return cls(ECKey.generate_key("P-256"), "ES256", None, ())

    @property
    def public(self) -> dict[str, object]:
        """The public half as a JWK, without key id and algorithm."""
        return {name: value for name, value in self._key.as_dict(private=False).items() if name in _MATERIAL}

    def sign(self, header: Mapping[str, object], claims: Mapping[str, object]) -> str:
        """Return *claims* as a compact JSON Web Token; *header* is without its `alg`."""
        payload = json.dumps(claims, separators=(",", ":"))
        return jws.serialize_compact({"alg": self.algorithm, **header}, payload, self._key, algorithms=_ALGORITHMS)


def token_hash(token: str) -> str:
    """Return what ties a proof to *token*, the `ath` of RFC 9449 section 4.2."""
    return urlsafe_b64encode(sha256(token.encode()).digest()).rstrip(b"=").decode()


def load(given: object) -> SigningKey:
    """
    Return the key in *given*: PEM text (also with `\\n` written out), a JWK as mapping or JSON, or a path to either.

    Raises:
        AuthError: It is none of these, or no private RSA or EC key that Okta takes; the message begins "private_key".
    """
    if isinstance(given, Mapping):
        return _from_jwk(given)
    if isinstance(given, os.PathLike):
        return _from_text(_read(os.fspath(given)))
    text = given.decode("latin-1") if isinstance(given, bytes) else given
    if not isinstance(text, str):
        raise AuthError(f"private_key is a {type(given).__name__}; it must be PEM text, a JWK, or a path")
    text = text.strip().strip("\"'")
    if not text:
        raise AuthError("private_key is empty")
    if "-----BEGIN" in text or text.startswith("{"):
        return _from_text(text)
    return _from_text(_read(text))


def _read(path: str | bytes) -> str:
    """Return the text of the file at *path*, which is not named in errors: it might be a key without its header."""
    with suppress(OSError, ValueError, RuntimeError), Path(os.fsdecode(path)).expanduser().open("rb") as file:
        return file.read(_MAX_KEY_FILE).decode("latin-1").strip()
    raise AuthError(
        "private_key is neither PEM (it would begin with -----BEGIN), nor a JWK in JSON, nor a readable file's path"
    )


def _from_text(text: str) -> SigningKey:
    if "-----BEGIN" in text and not text.startswith("{"):
        return _from_pem(text.replace("\\r", "").replace("\\n", "\n"))
    jwk: object = None
    with suppress(ValueError, RecursionError):
        jwk = json.loads(text)
    if not isinstance(jwk, dict):
        raise AuthError("private_key is neither PEM (it would begin with -----BEGIN) nor a JWK in JSON")
    return _from_jwk(jwk)


def _from_pem(pem: str) -> SigningKey:
    if "ENCRYPTED" in pem:
        raise AuthError("private_key is encrypted; give the key without a passphrase (openssl pkey -in … -out …)")
    if "PRIVATE KEY-----" not in pem:
        raise AuthError("private_key has no private part; give the private key, not the public one or a certificate")
    if "BEGIN OPENSSH" in pem:
        raise AuthError("private_key is in OpenSSH's own format; convert it with ssh-keygen -p -m PEM -f …")
    key = _import(RSAKey, pem) or _import(ECKey, pem)
    if key is None:
        raise AuthError("private_key is not a readable RSA or EC key in PEM (PKCS#1, PKCS#8 or SEC 1)")
    bodies = tuple("".join(body.split()) for body in _PEM_BODY.findall(pem))
    return SigningKey(key, None, None, bodies)


def _from_jwk(jwk: Mapping[str, object]) -> SigningKey:
    if "keys" in jwk:
        raise AuthError("private_key is a set of keys; give the one JWK inside `keys` that the app knows")
    kinds: dict[object, type[RSAKey] | type[ECKey]] = {"RSA": RSAKey, "EC": ECKey}
    kind = kinds.get(str(jwk.get("kty")))
    if jwk.get("kty") == "oct":
        raise AuthError("private_key is symmetric (kty oct); Okta takes RSA and EC keys")
    if kind is None:
        raise AuthError("private_key is a JWK whose kty is not RSA or EC")
    if "d" not in jwk:
        raise AuthError("private_key has no private part (the JWK has no d); the public half cannot sign")
    if jwk.get("use", "sig") != "sig":
        raise AuthError("private_key is a JWK whose use is not sig")
    if kind is ECKey and jwk.get("crv") not in _CURVES:
        raise AuthError(f"private_key is on a curve that Okta does not take; it must be one of {', '.join(_CURVES)}")
    algorithm, key_id = jwk.get("alg"), jwk.get("kid")
    if not isinstance(algorithm, str | None) or not isinstance(key_id, str | None):
        raise AuthError("private_key is a JWK whose alg or kid is not text")
    material: dict[str, str | list[str]] = {name: str(jwk[name]) for name in _MATERIAL if name in jwk}
    key = _import(kind, material)
    if key is None:
        raise AuthError("private_key is a JWK whose numbers are missing, unreadable, or do not belong together")
    return SigningKey(key, algorithm, key_id, tuple(str(jwk[name]) for name in _SECRET if name in jwk))


def _import(kind: type[RSAKey] | type[ECKey], given: str | dict[str, str | list[str]]) -> RSAKey | ECKey | None:
    """Return the key, `None` if the library cannot read it; its error and its warnings may show what was given."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of small keys; _check refuses those
            return kind.import_key(given)
    except Exception:
        return None


def _default_algorithm(key: RSAKey | ECKey) -> str:
    return "RS256" if isinstance(key, RSAKey) else _CURVES.get(_curve(key), "")


def _curve(key: ECKey) -> str:
    try:
        return key.curve_name
    except KeyError:  # a curve that the library cannot name
        return ""


def _check(key: RSAKey | ECKey, algorithm: str) -> None:
    fitting: tuple[str, ...] = _RSA
    if isinstance(key, RSAKey):
        bits = key.raw_value.key_size
        if bits < _RSA_BITS:
            raise AuthError(f"private_key has {bits} bits; an RSA key must have at least {_RSA_BITS}")
    elif _curve(key) in _CURVES:
        fitting = (_CURVES[_curve(key)],)
    else:
        raise AuthError(f"private_key is on a curve that Okta does not take; it must be one of {', '.join(_CURVES)}")
    if not key.is_private:
        raise AuthError("private_key has no private part; the public half cannot sign")
    if algorithm not in fitting:
        raise AuthError(f"private_key is a JWK whose alg does not fit the key; it must be {' or '.join(fitting)}")
