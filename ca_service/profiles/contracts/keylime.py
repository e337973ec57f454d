"""What keylime demands, registrar, tenant and agent.

Read in keylime/keylime 7.14.3 (``keylime/cert_utils.py``, ``keylime/models/registrar/registrar_agent.py``,
``keylime/tpm/tpm2_objects.py``, ``keylime/db/registrar_db.py``, ``keylime/common/algorithms.py``) and
keylime/rust-keylime (``keylime/src/crypto.rs``). ``tests/consumers`` asks keylime's own functions the same; those of
the agent, in Rust, were read only.
"""

from typing import Final

from ca_service.profiles import structures
from ca_service.profiles.contract import ContractBook
from ca_service.profiles.contract_subject import ContractSubject
from ca_service.profiles.contracts.common import DEVICES, EKS, IDENTITIES, NAMED, TPM_20
from ca_service.profiles.outline import Outline
from ca_service.profiles.rule import differs
from ca_service.profiles.view import HardwareModuleView, OtherNameView, PermanentIdentifierView

KEYLIME: Final = ContractBook("keylime")

_CERTIFICATE_COLUMN = 1536
"""Octets whose Base64 fills the 2,048 characters of `iak_cert` and `idevid_cert`."""
_NV_INDEX = 2048


@KEYLIME.steady_rule("signature", *DEVICES, required=DEVICES)
def _signature(s: Outline) -> str | None:
    """`cert_utils.verify_cert`: the key of an issuer verifies by RSA PKCS#1 v1.5 or ECDSA; this CA's are ECDSA."""
    return differs("the signature algorithm", structures.ECDSA_WITH_SHA384, s.signature_algorithm)


@KEYLIME.steady_rule("key", *DEVICES, required=DEVICES)
def _key(s: Outline) -> str | None:
    """`RegistrarAgent._check_key_against_cert`: SubjectPublicKeyInfo of certificate and TPM key are the same octets.

    `tpm2_objects.pubkey_from_tpm2b_public` makes rsaEncryption and named curves. A key labelled for OAEP breaks the
    registrar, one labelled for PSS is taken for another.
    """
    return None if s.key_kind else "cannot read a key of this kind"


@KEYLIME.rule("size", *DEVICES, required=EKS)
def _size(s: ContractSubject) -> str | None:
    """Columns of `registrar_db.RegistrarMain` hold 2,048 characters in Base64; EK certificates are read from NV."""
    limit = _NV_INDEX if s.profile == "ek" else _CERTIFICATE_COLUMN
    return None if s.size <= limit else f"has room for {limit} octets, not for {s.size}"


@KEYLIME.rule("hardware-module-name", *IDENTITIES, required=NAMED)
def _hardware_module_name(s: ContractSubject) -> str | None:
    """`cert_utils.check_tpm_origin`, which registrars up to 7.9 call: it looks at the first otherName alone.

    No otherName at all raises; another one than a HardwareModuleName is warned of; another hwType is refused.
    """
    others = [
        name
        for name in s.names
        if isinstance(name, HardwareModuleView | PermanentIdentifierView | OtherNameView)
    ]
    if not others or not isinstance(others[0], HardwareModuleView):
        return "wants a HardwareModuleName as the first otherName (up to 7.9)"
    return differs("hwType", TPM_20, others[0].hw_type)


@KEYLIME.rule("agent-template", *IDENTITIES)
def _agent_template(s: ContractSubject) -> str | None:
    """rust-keylime `match_cert_to_template`, if `iak_idevid_template` is left at ``detect``.

    It tells RSA-2048 (H-1), P-384 (H-3) and P-521 (H-4). On 256 bits it knows secp256k1 and takes all else for SM2.
    """
    if s.key == "P-256":
        return 'takes a P-256 key for SM2, unless the agent is set to iak_idevid_template = "H-2"'
    if s.key == "RSA-3072":
        return "does not find the template of an RSA-3072 key, unless the agent is set to it"
    return None


@KEYLIME.rule("public-area", *DEVICES)
def _public_area(s: ContractSubject) -> str | None:
    """`registrar_db.RegistrarMain`: `ek_tpm`, `iak_tpm` and `idevid_tpm` hold 500 characters of Base64, 375 octets.

    The modulus of RSA-3072 alone has 384. SQLite does not mind; MySQL and PostgreSQL do.
    """
    return "has no room for the public area of an RSA-3072 key" if s.key == "RSA-3072" else None


@KEYLIME.rule("tenant-algorithms", *EKS)
def _tenant_algorithms(s: ContractSubject) -> str | None:
    """`algorithms.is_accepted`: ``rsa`` and ``ecc`` of the tenant's default lists mean RSA-2048 and P-256."""
    if s.key in ("RSA-2048", "P-256"):
        return None
    return "takes such an EK only if the tenant's accept_tpm_encryption_algs lists it"
