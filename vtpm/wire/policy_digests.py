"""Authorization policy digests of the TCG key templates, computed by formula.

Sources: TPM 2.0 Library, Part 3, section 23 (PolicySecret, PolicyCommandCode, PolicyOR,
PolicyAuthorizeNV); TCG EK Credential Profile 2.x, annex B (PolicyA, PolicyB, PolicyC); TCG "TPM 2.0 Keys
for Device Identity and Attestation" 1.0, section 7.3 (IDevID and IAK policies). The tests compare the
results with the published constants.
"""

import hashlib
import struct

HASH_ALGORITHMS = {"sha256": 0x000B, "sha384": 0x000C, "sha512": 0x000D}
"""Hash names as the wire uses them, with their TPM_ALG_ID."""

_HASHES = {"sha256": hashlib.sha256, "sha384": hashlib.sha384, "sha512": hashlib.sha512}

_RH_ENDORSEMENT = struct.pack(">I", 0x4000000B)
_CC_ACTIVATE_CREDENTIAL = 0x00000147
_CC_CERTIFY = 0x00000148
_CC_POLICY_SECRET = struct.pack(">I", 0x00000151)
_CC_POLICY_COMMAND_CODE = struct.pack(">I", 0x0000016C)
_CC_POLICY_OR = struct.pack(">I", 0x00000171)
_CC_POLICY_AUTHORIZE_NV = struct.pack(">I", 0x00000192)

_POLICY_INDEX_ATTRIBUTES = 0x220F1008
"""policywrite, writeall, ppread, ownerread, authread, policyread, noDA, written."""

_EK_POLICY_INDEX = {"sha256": 0x01C07F01, "sha384": 0x01C07F02, "sha512": 0x01C07F03}
_IDEVID_POLICY_INDEX = {"sha256": 0x01C90010, "sha384": 0x01C90011, "sha512": 0x01C90012}
_IAK_POLICY_INDEX = {"sha256": 0x01C90018, "sha384": 0x01C90019, "sha512": 0x01C9001A}


def digest(name_alg: str, *parts: bytes) -> bytes:
    """Hash of the concatenated `parts` under `name_alg` ("sha256", "sha384" or "sha512")."""
    return _HASHES[name_alg](b"".join(parts)).digest()


def _nothing(name_alg: str) -> bytes:
    """The policy digest that every session starts from: zeros."""
    return bytes(_HASHES[name_alg]().digest_size)


def _extended_by_command(name_alg: str, before: bytes, command_code: int) -> bytes:
    return digest(name_alg, before, _CC_POLICY_COMMAND_CODE, struct.pack(">I", command_code))


def _any_of(name_alg: str, *branches: bytes) -> bytes:
    return digest(name_alg, _nothing(name_alg), _CC_POLICY_OR, *branches)


def _authorize_nv(name_alg: str, nv_index: int) -> bytes:
    """PolicyAuthorizeNV over an index that has PolicyA itself and holds one digest of this algorithm."""
    algorithm = HASH_ALGORITHMS[name_alg]
    index_policy = policy_a(name_alg)
    nv_public = struct.pack(">IHIH", nv_index, algorithm, _POLICY_INDEX_ATTRIBUTES, len(index_policy))
    nv_public += index_policy + struct.pack(">H", len(index_policy) + 2)
    nv_name = struct.pack(">H", algorithm) + digest(name_alg, nv_public)
    return digest(name_alg, _nothing(name_alg), _CC_POLICY_AUTHORIZE_NV, nv_name)


def policy_a(name_alg: str) -> bytes:
    """PolicyA: PolicySecret of the endorsement hierarchy, with an empty policyRef."""
    return digest(name_alg, digest(name_alg, _nothing(name_alg), _CC_POLICY_SECRET, _RH_ENDORSEMENT))


def policy_c(name_alg: str) -> bytes:
    """PolicyC: PolicyAuthorizeNV of the index reserved for EK policies."""
    return _authorize_nv(name_alg, _EK_POLICY_INDEX[name_alg])


def policy_b(name_alg: str) -> bytes:
    """PolicyB: PolicyA or PolicyC; the policy of EK templates in the high range."""
    return _any_of(name_alg, policy_a(name_alg), policy_c(name_alg))


def _branches(name_alg: str, index: dict[str, int]) -> tuple[bytes, ...]:
    secret = policy_a(name_alg)
    return (
        secret,
        _extended_by_command(name_alg, secret, _CC_CERTIFY),
        _extended_by_command(name_alg, secret, _CC_ACTIVATE_CREDENTIAL),
        _authorize_nv(name_alg, index[name_alg]),
    )


def idevid_branches(name_alg: str) -> tuple[bytes, ...]:
    """The four digests that PolicyOR of an IDevID takes, in order.

    Endorsement secret; the same for TPM2_Certify; the same for TPM2_ActivateCredential; policy in NV.
    """
    return _branches(name_alg, _IDEVID_POLICY_INDEX)


def iak_branches(name_alg: str) -> tuple[bytes, ...]:
    """The four digests that PolicyOR of an IAK takes, in the order of `idevid_branches`."""
    return _branches(name_alg, _IAK_POLICY_INDEX)


def idevid_policy(name_alg: str) -> bytes:
    """The authPolicy of an IDevID key."""
    return _any_of(name_alg, *idevid_branches(name_alg))


def iak_policy(name_alg: str) -> bytes:
    """The authPolicy of an IAK."""
    return _any_of(name_alg, *iak_branches(name_alg))
