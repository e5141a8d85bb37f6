"""Private keys and the other arguments of a service app."""

import json
import os
import subprocess
import sys
import traceback
import warnings

import pytest
from acme import ec_key, pem, rsa_key, service_app
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from joserfc.jwk import ECKey, OctKey, RSAKey

import riskbatch as rb
from riskbatch.okta import keys


def every_form():
    private = rsa_key()
    p384 = ec.generate_private_key(ec.SECP384R1())
    jwk = ec_key().as_dict(private=True)
    traditional = ser.PrivateFormat.TraditionalOpenSSL
    return {
        "PKCS#8 RSA": (pem(private), "RS256"),
        "PKCS#1 RSA": (pem(private, traditional), "RS256"),
        "PKCS#8 EC": (pem(p384), "ES384"),
        "SEC 1 EC": (pem(p384, traditional), "ES384"),
        "written out newlines": (pem(private).replace("\n", "\\n"), "RS256"),
        "written out CRLF, quoted": ('"' + pem(private).replace("\n", "\\r\\n") + '"', "RS256"),
        "CRLF and spaces": ("\r\n  " + pem(private).replace("\n", "\r\n"), "RS256"),
        "bytes": (pem(private).encode(), "RS256"),
        "JWK": (jwk, "ES256"),
        "JWK as JSON": (json.dumps(jwk), "ES256"),
        "JWK with alg": (RSAKey.import_key(pem(private), {"alg": "RS512"}).as_dict(private=True), "RS512"),
        "JWK without primes": (
            {k: v for k, v in RSAKey.import_key(pem(private)).as_dict(private=True).items() if k in "kty n e d"},
            "RS256",
        ),
    }


def test_every_form_of_a_key_is_taken(tmp_path):
    """PEM of every kind, with literal newlines, a JWK, its JSON, and the path of each, as text and as Path."""
    for name, (form, algorithm) in every_form().items():
        assert keys.load(form).algorithm == algorithm, name
        if isinstance(form, str):
            path = tmp_path / "key"
            path.write_text(form)
            assert keys.load(path).algorithm == keys.load(str(path)).algorithm == algorithm, name


def test_the_key_id_is_the_arguments_or_the_jwks():
    """The argument wins over the JWK's kid."""
    assert service_app().key_id == "first"
    assert service_app(key_id="other").key_id == "other"
    assert rb.ServiceApp("0oa1", pem(rsa_key())).key_id is None


def bad_keys():
    private = rsa_key()
    jwk = ec_key().as_dict(private=True)
    rsa_jwk = RSAKey.import_key(pem(private)).as_dict(private=True)
    public = private.public_key().public_bytes(ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo).decode()
    with warnings.catch_warnings(action="ignore"):
        weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    traditional = ser.PrivateFormat.TraditionalOpenSSL
    other = ECKey.generate_key("P-256").as_dict(private=True)
    return {
        "encrypted PKCS#8": (pem(private, encryption=ser.BestAvailableEncryption(b"x")), "encrypted"),
        "encrypted PKCS#1": (pem(private, traditional, ser.BestAvailableEncryption(b"x")), "encrypted"),
        "public PEM": (public, "no private part"),
        "certificate": ("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----", "no private part"),
        "OpenSSH": (pem(private, ser.PrivateFormat.OpenSSH), "ssh-keygen"),
        "public RSA JWK": ({k: v for k, v in rsa_jwk.items() if k in "kty n e"}, "no private part"),
        "public EC JWK": (ec_key().as_dict(private=False), "no private part"),
        "symmetric": (OctKey.generate_key(256).as_dict(private=True), "symmetric"),
        "symmetric JSON": ('{"kty":"oct","k":"c2VjcmV0LXNlY3JldA"}', "symmetric"),
        "Ed25519 PEM": (pem(ed25519.Ed25519PrivateKey.generate()), "not a readable RSA or EC"),
        "Ed25519 JWK": ({"kty": "OKP", "crv": "Ed25519", "d": "c2VjcmV0LXNlY3JldA", "x": "AA"}, "RSA or EC"),
        "secp256k1 PEM": (pem(ec.generate_private_key(ec.SECP256K1())), "curve"),
        "secp256k1 JWK": ({**jwk, "crv": "secp256k1"}, "curve"),
        "P-224": (pem(ec.generate_private_key(ec.SECP224R1())), "curve"),
        "1024 bits": (pem(weak), "1024 bits"),
        "wrong alg for curve": ({**jwk, "alg": "ES512"}, "alg"),
        "PS256": ({**rsa_jwk, "alg": "PS256"}, "alg"),
        "HS256": ({**rsa_jwk, "alg": "HS256"}, "alg"),
        "alg of the other kind": ({**rsa_jwk, "alg": "ES256"}, "alg"),
        "for encryption": ({**jwk, "use": "enc"}, "use"),
        "key set": ({"keys": [jwk]}, "set of keys"),
        "halves of two keys": ({**jwk, "x": other["x"], "y": other["y"]}, "numbers"),
        "broken base64": ({**jwk, "d": "secret!!" + jwk["d"]}, "numbers"),
        "number where text should be": ({**jwk, "d": 12345678901234567890}, "numbers"),
        "missing coordinates": ({k: v for k, v in jwk.items() if k != "y"}, "numbers"),
        "cut PEM": (pem(private)[:600], "not a readable"),
        "garbage PEM": ("-----BEGIN PRIVATE KEY-----\nc2VjcmV0LXNlY3JldA==\n-----END PRIVATE KEY-----", "readable"),
        "cut JSON": (json.dumps(jwk)[:-5], "neither PEM"),
        "JSON array": ("{}", "kty"),
        "bare base64": (jwk["d"] * 30, "path of a readable file"[:4]),
        "no such file": ("/nonexistent/secret-place.pem", "neither PEM"),
        "a directory": (os.sep, "neither PEM"),
        "NUL": ("secret\0", "neither PEM"),
        "empty": ("  ", "empty"),
        "None": (None, "NoneType"),
        "number": (7, "int"),
    }  # fmt: skip


def test_a_bad_key_is_refused_by_name_and_never_shown():
    """Every bad key is an AuthError that says what is wrong, without key material in message, cause or context."""
    for name, (bad, words) in bad_keys().items():
        with pytest.raises(rb.AuthError) as caught:
            rb.ServiceApp("0oa1", bad)
        error = caught.value
        assert words in str(error), name
        assert str(error).startswith("private_key"), name
        assert error.__cause__ is None, name
        assert error.__context__ is None, name
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][1:]
        assert not any("private_key" in frame.f_locals for frame in frames), name
        assert traceback.TracebackException.from_exception(error, capture_locals=True).stack
        texts = [v for k, v in bad.items() if k in ("d", "k", "p", "q", "x")] if isinstance(bad, dict) else [bad]
        for text in texts:
            for line in str(text).split():
                if len(line) > 8 and "-----" not in line:
                    assert line[:12] not in "".join(traceback.format_exception(error)), name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"client_id": ""}, "client_id"),
        ({"client_id": "{clientId}"}, "placeholder"),
        ({"client_id": "0oa 1"}, "client_id"),
        ({"key_id": ""}, "key_id"),
        ({"scopes": ()}, "scopes is empty"),
        ({"scopes": " "}, "scopes is empty"),
        ({"scopes": [7]}, "scopes has a int"),
        ({"scopes": ['say "x"']}, "not a scope"),
        ({"dpop": "yes"}, "dpop"),
    ],
)
def test_other_arguments_are_checked(arguments, words):
    """What cannot work is refused at construction, by name."""
    with pytest.raises(rb.AuthError, match=words):
        rb.ServiceApp(**{"client_id": "0oa1", "private_key": ec_key().as_dict(private=True)} | arguments)


def test_scopes_are_taken_in_every_spelling():
    """A list, or one text with commas or spaces; each scope once, in order."""
    for scopes in (["a", "b", "a"], "a b", "a,b", " a , b,", ["a b"]):
        assert service_app(scopes=scopes).scopes == ("a", "b")


def test_a_service_app_shows_everything_but_its_key():
    """repr has client id, key id and scopes."""
    shown = repr(service_app())
    assert "0oa1" in shown
    assert "first" in shown
    assert ec_key().as_dict(private=True)["d"] not in shown
    assert "SigningKey" not in shown


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    """A missing crypto library is an AuthError with the pip command; ApiToken works without it."""
    monkeypatch.setitem(sys.modules, "joserfc", None)
    monkeypatch.setitem(sys.modules, "joserfc.jwk", None)
    monkeypatch.delitem(sys.modules, "riskbatch.okta.keys", raising=False)
    monkeypatch.delattr("riskbatch.okta.keys", raising=False)
    with pytest.raises(rb.AuthError, match=r"in a checkout of riskbatch, pip install '\.\[oauth\]'"):
        service_app()


def test_the_core_and_the_emulator_never_import_the_crypto_library():
    """Importing riskbatch, its providers and its emulator loads neither joserfc nor cryptography."""
    code = (
        "import sys, riskbatch, riskbatch.emulator, riskbatch.okta.providers; riskbatch.ApiToken('x');"
        "print(sorted({'joserfc', 'cryptography'} & {name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
