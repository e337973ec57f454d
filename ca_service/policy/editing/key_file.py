"""Files with the public key of a key broker."""

from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from ca_service.judgment import BadRequest
from vtpm.wire.encoding import parse_json
from vtpm.wire.errors import WireError
from vtpm.wire.jwk import EcJwk

KBS_CURVES: Final = ("P-256", "P-384")
MAX_KEY_FILE: Final = 4096
"""Longest file with a public key, in bytes."""

_JSON_DEPTH = 2


def read_key(text: str, path: str) -> EcJwk:
    """Read the public key of a key broker: a JWK (RFC 7517) or PEM (SubjectPublicKeyInfo), on P-256 or P-384.

    Args:
        text: content of a file.
        path: what an error calls it.

    Raises:
        BadRequest: it is neither, or on another curve. The error shows nothing of the text.
    """
    try:
        if text.lstrip().startswith("{"):
            value = parse_json(text.encode(), most=MAX_KEY_FILE, depth=_JSON_DEPTH)
            return EcJwk.parse(value, "", curves=KBS_CURVES)
        key = load_pem_public_key(text.encode())
    except WireError as error:
        at = f"member {error.path} " if error.path else ""
        raise BadRequest(path, f"is no JWK of a public key: {at}{error.problem}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise BadRequest(path, "is no public key, neither a JWK nor PEM (SubjectPublicKeyInfo)") from None
    if isinstance(key, ec.EllipticCurvePublicKey):
        jwk = EcJwk.from_key(key) if key.curve.name in ("secp256r1", "secp384r1") else None
        if jwk is not None:
            return jwk
    raise BadRequest(path, f"must be a key on {' or '.join(KBS_CURVES)}")
