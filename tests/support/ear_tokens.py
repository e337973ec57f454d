"""Attestation tokens as Trustee writes them, signed by hand so that anything can stand in them."""

import base64
import copy
import hashlib
import hmac
import json

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from vtpm.wire.encoding import b64std, b64url
from vtpm.wire.jwk import EcJwk

ISSUED = 1_790_000_000
VERIFIER = ec.derive_private_key(41, ec.SECP256R1())
STRANGER = ec.derive_private_key(43, ec.SECP256R1())
TEE = EcJwk.from_key(ec.derive_private_key(47, ec.SECP521R1()).public_key())
NONCE = b64std(bytes(range(32)))

APPRAISAL = {
    "ear.status": "affirming",
    "ear.trustworthiness-vector": {
        "instance-identity": 0,
        "configuration": 3,
        "executables": 3,
        "file-system": 0,
        "hardware": 2,
        "runtime-opaque": 0,
        "storage-opaque": 0,
        "sourced-data": 0,
    },
    "ear.appraisal-policy-id": "default",
    "ear.veraison.annotated-evidence": {
        "init_data": "00" * 32,
        "init_data_claims": None,
        "report_data": "11" * 64,
        "runtime_data_claims": {
            "additional-evidence": "",
            "nonce": NONCE,
            "tee-pubkey": {"alg": "ECDH-ES+A256KW", **TEE.members()},
        },
        "snp": {"measurement": "22" * 48, "policy_abi_major": 1, "platform_smt_enabled": True},
    },
    "ear.trustee.identifiers": {"validated": {}},
}
CLAIMS = {
    "eat_profile": "tag:github.com,2024:confidential-containers/Trustee",
    "iat": ISSUED,
    "ear.verifier-id": {
        "developer": "https://confidentialcontainers.org",
        "build": "attestation-service 0.1.0",
    },
    "submods": {"cpu0": APPRAISAL},
    "exp": ISSUED + 300,
    "iss": "CoCo-Attestation-Service",
}

RUNTIME = ("submods", "cpu0", "ear.veraison.annotated-evidence", "runtime_data_claims")
GONE = object()


def changed(value, path, new):
    """A copy of the JSON object in which `path` leads to `new`, or to nothing if that is `GONE`."""
    whole = copy.deepcopy(value)
    inner = whole
    for step in path[:-1]:
        inner = inner[step]
    if new is GONE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return whole


def header(key=VERIFIER, **more):
    jwk = EcJwk.from_key(key.public_key()).members() | {"alg": "ES256"}
    return {"typ": "JWT", "alg": "ES256", "jwk": jwk} | more


def encoded(head, claims):
    """The signing input; text and bytes are taken for JSON as they stand."""
    parts = (part if isinstance(part, str | bytes) else json.dumps(part) for part in (head, claims))
    return ".".join(b64url(part.encode() if isinstance(part, str) else part) for part in parts)


def es256(key, signed):
    r, s = utils.decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def token(claims=None, *, key=VERIFIER, head=None):
    """The compact JWS of the claims, under `key`."""
    signed = encoded(header(key) if head is None else head, CLAIMS if claims is None else claims)
    return f"{signed}.{b64url(es256(key, signed))}"


def keyed_hash(secret, claims=None, **head):
    """A token "signed" with HMAC-SHA-256 under bytes that everybody knows."""
    signed = encoded(header(alg="HS256", **head), CLAIMS if claims is None else claims)
    return f"{signed}.{b64url(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def parts(compact):
    """The three parts' bytes."""
    return [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in compact.split(".")]
