"""What the TPM proves to the CA: TPM2_Certify of the IDevID by the IAK, and TPM2_ActivateCredential.

The templates set adminWithPolicy, so both commands want a policy session for the ADMIN role (of the IDevID in
Certify, of the IAK in ActivateCredential): PolicySecret(endorsement), PolicyCommandCode, PolicyOR over the four
branches of the key's policy. An EK of the low range wants PolicySecret(endorsement); the high range has userWithAuth
and takes its empty password. The keys are regenerated for the purpose; persistent handles are not trusted.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from tpm2_pytss import TPM2B_ENCRYPTED_SECRET, TPM2B_ID_OBJECT, TPML_DIGEST, TPMT_SIG_SCHEME
from tpm2_pytss.constants import TPM2_ALG, TPM2_CC

from vtpm.tpm.errors import TpmError
from vtpm.tpm.esapi import ESAPI, ESYS_TR, Bench, policy_session
from vtpm.tpm.keys import RecordedKeys, recorded
from vtpm.tpm.swtpm import Swtpm
from vtpm.tpm.workbench import workbench
from vtpm.wire.templates import Role, devid_branches, template

_USER_WITH_AUTH = 0x00000040
_MAX_QUALIFIER = 64

_T = TypeVar("_T", TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET)


@contextmanager
def _admin_session(esapi: ESAPI, role: Role, template_id: str, command: int) -> Iterator[ESYS_TR]:
    """A policy session that satisfies the policy of an IAK or IDevID for one command."""
    name_alg = template(role, template_id).name_alg
    with policy_session(esapi, name_alg) as session:
        esapi.policy_secret(ESYS_TR.ENDORSEMENT, session)
        esapi.policy_command_code(session, command)
        esapi.policy_or(session, TPML_DIGEST(list(devid_branches(role, name_alg))))
        yield session


@contextmanager
def _ek_authorisation(esapi: ESAPI, template_id: str) -> Iterator[ESYS_TR]:
    chosen = template(Role.EK, template_id)
    if chosen.attributes & _USER_WITH_AUTH:
        yield ESYS_TR.PASSWORD
        return
    with policy_session(esapi, chosen.name_alg) as session:
        esapi.policy_secret(ESYS_TR.ENDORSEMENT, session)
        yield session


def certify_idevid(tpm: Swtpm, keys: RecordedKeys, qualifier: bytes) -> tuple[bytes, bytes]:
    """TPM2_Certify: the IAK signs that the IDevID is in the same TPM.

    Args:
        tpm: a TPM with power.
        keys: its recorded keys.
        qualifier: extraData, at most 64 bytes; `vtpm.wire.runtime_data.certify_qualifier` makes it.

    Returns:
        TPMS_ATTEST and TPMT_SIGNATURE as the TPM marshals them (the IAK's own scheme).

    Raises:
        TpmIdentityError: the TPM makes other keys than the recorded ones.
        TpmError: the TPM refused, or has gone.
    """
    return workbench(tpm, lambda bench: certify_on(bench, keys, qualifier))


def certify_on(bench: Bench, keys: RecordedKeys, qualifier: bytes) -> tuple[bytes, bytes]:
    """The same by one TPM and no other, with its endorsement hierarchy as it is.

    Raises:
        TpmIdentityError: the TPM makes other keys than the recorded ones.
        TpmError: the TPM refused, or has gone.
    """
    if len(qualifier) > _MAX_QUALIFIER:
        raise TpmError(f"qualifying data has at most {_MAX_QUALIFIER} bytes")
    with (
        bench.esapi("certifying the IDevID") as esapi,
        recorded(esapi, Role.IAK, keys.iak) as iak,
        recorded(esapi, Role.IDEVID, keys.idevid) as idevid,
        _admin_session(esapi, Role.IDEVID, keys.idevid.template, TPM2_CC.Certify) as session,
    ):
        attest, signature = esapi.certify(
            idevid, iak, qualifier, TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL), session1=session
        )
        return bytes(attest), bytes(signature.marshal())


def activate(tpm: Swtpm, keys: RecordedKeys, ek_index: int, credential_blob: bytes, secret: bytes) -> bytes:
    """TPM2_ActivateCredential: recover the secret that was encrypted to an EK for this IAK's Name.

    Args:
        tpm: a TPM with power.
        keys: its recorded keys.
        ek_index: which of `keys.eks` the challenge is for.
        credential_blob: TPM2B_ID_OBJECT, size field included.
        secret: TPM2B_ENCRYPTED_SECRET, size field included.

    Returns:
        the secret.

    Raises:
        TpmIdentityError: the TPM makes other keys than the recorded ones.
        TpmError: the challenge is malformed or not for these keys, the TPM refused, or has gone.
    """
    return workbench(tpm, lambda bench: activate_on(bench, keys, ek_index, credential_blob, secret))


def activate_on(
    bench: Bench, keys: RecordedKeys, ek_index: int, credential_blob: bytes, secret: bytes
) -> bytes:
    """The same by one TPM and no other, with its endorsement hierarchy as it is.

    Raises:
        TpmIdentityError: the TPM makes other keys than the recorded ones.
        TpmError: the challenge is malformed or not for these keys, the TPM refused, or has gone.
    """
    if not 0 <= ek_index < len(keys.eks):
        raise TpmError("the challenge is for an EK that this TPM does not have")
    ek = keys.eks[ek_index]
    blob = _unmarshal(TPM2B_ID_OBJECT, credential_blob)
    encrypted = _unmarshal(TPM2B_ENCRYPTED_SECRET, secret)
    with (
        bench.esapi("activating the credential") as esapi,
        recorded(esapi, Role.IAK, keys.iak) as iak,
        recorded(esapi, Role.EK, ek) as ek_handle,
        _admin_session(esapi, Role.IAK, keys.iak.template, TPM2_CC.ActivateCredential) as session,
        _ek_authorisation(esapi, ek.template) as ek_session,
    ):
        return bytes(
            esapi.activate_credential(iak, ek_handle, blob, encrypted, session1=session, session2=ek_session)
        )


def _unmarshal(kind: type[_T], data: bytes) -> _T:
    """Read a TPM2B that came from outside; its size field is checked before the C library sees it."""
    name = kind.__name__
    if len(data) < 2 or int.from_bytes(data[:2], "big") != len(data) - 2:  # noqa: PLR2004 - the size field
        raise TpmError(f"the challenge's {name} is not exactly one {name}")
    try:
        value, consumed = kind.unmarshal(data)
    except Exception as error:
        raise TpmError(f"the challenge's {name} is malformed") from error
    if consumed != len(data):
        raise TpmError(f"the challenge's {name} has trailing bytes")
    return value
