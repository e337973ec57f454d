"""TPM2_MakeCredential without a TPM: what only the TPM that holds both EK and IAK can answer."""

from types import SimpleNamespace
from typing import Any

from tpm2_pytss.utils import make_credential

from vtpm.wire.errors import WireError
from vtpm.wire.policy_digests import HASH_ALGORITHMS
from vtpm.wire.public_area import ALG_ECC, ALG_RSA
from vtpm.wire.templates import PublicArea, Role, differences, parse_public, templates

SECRET_SIZE = 32
"""Bytes of a secret: the most that an EK with SHA-256 as its nameAlg can carry, and enough for the others."""

_NAME_SIZES = {0x000B: 34, 0x000C: 50, 0x000D: 66}


def make_challenge(ek_public: bytes, iak_name: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """Wrap a secret so that it comes out only in the TPM with this EK, and only if a key of this Name is there too.

    Source: TPM 2.0 Library, Part 1, section 24 (credential protection).

    Args:
        ek_public: TPMT_PUBLIC of the EK, which passed `KEY_CHECKS`.
        iak_name: Name of the IAK.
        secret: `SECRET_SIZE` bytes.

    Returns:
        TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET, as TPM2_ActivateCredential takes them.

    Raises:
        WireError: `ek_public` is an instance of no EK template.
        ValueError: the secret has another size, or `iak_name` is no Name.
    """
    if len(secret) != SECRET_SIZE:
        raise ValueError(f"the secret must be {SECRET_SIZE} bytes")
    if len(iak_name) != _NAME_SIZES.get(int.from_bytes(iak_name[:2], "big")):
        raise ValueError("not a Name of SHA-256, SHA-384 or SHA-512")
    ek = parse_public(ek_public, "ek")
    ek.public_key()
    if all(differences(ek_public, template) for template in templates(Role.EK)):
        raise WireError("ek", "is an instance of no EK template")
    blob, encrypted = make_credential(_as_tpmt_public(ek), _as_tpm2b(secret), iak_name)
    return blob.marshal(), encrypted.marshal()


def _as_tpm2b(data: bytes) -> Any:
    """What `make_credential` asks of a TPM2B: its marshalled form."""
    return SimpleNamespace(marshal=lambda: len(data).to_bytes(2, "big") + data)


def _as_tpmt_public(ek: PublicArea) -> Any:
    """What `make_credential` reads of a TPMT_PUBLIC, under the names that the structure has in tpm2-pytss.

    The fields have been read and judged already; through the C structure each of them would cost as much as all here.
    """
    symmetric = SimpleNamespace(
        algorithm=ek.symmetric.algorithm,
        mode=SimpleNamespace(sym=ek.symmetric.mode),
        keyBits=SimpleNamespace(sym=ek.symmetric.bits),
    )
    if ek.kind == "rsa":
        kind, unique = ALG_RSA, SimpleNamespace(rsa=SimpleNamespace(buffer=ek.unique[0]))
    else:
        kind, unique = ALG_ECC, SimpleNamespace(ecc=SimpleNamespace(x=ek.unique[0], y=ek.unique[1]))
    return SimpleNamespace(
        type=kind,
        nameAlg=HASH_ALGORITHMS[ek.name_alg],
        parameters=SimpleNamespace(
            asymDetail=SimpleNamespace(symmetric=symmetric),
            rsaDetail=SimpleNamespace(exponent=ek.exponent),
            eccDetail=SimpleNamespace(curveID=ek.curve),
        ),
        unique=unique,
    )
