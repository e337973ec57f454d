"""Certificates in the TPM's NV memory, where readers such as tpm2_getekcertificate look for them.

The indices are defined, written and locked with platform authorisation, and readable by everybody (attributes
as swtpm_setup sets them). So they survive TPM2_Clear, and a guest, who does not know platformAuth, can neither write
nor undefine them.
"""

from tpm2_pytss import TPM2B_NV_PUBLIC, TPMS_NV_PUBLIC
from tpm2_pytss.constants import TPM2_ALG, TPMA_NV

from vtpm.tpm.errors import TpmError
from vtpm.tpm.esapi import ESAPI, ESYS_TR, TSS2_Exception
from vtpm.tpm.swtpm import Swtpm

MAX_CERTIFICATE = 2048
"""Largest content of one NV index of this TPM (TPM_PT_NV_INDEX_MAX), in bytes."""

DEFINED_ATTRIBUTES = 0x42072001
"""PPWRITE, WRITEDEFINE, PPREAD, OWNERREAD, AUTHREAD, NO_DA, PLATFORMCREATE (Part 2, section 13.4)."""

_WRITTEN = 1 << 29
_WRITE_LOCKED = 1 << 11
LOCKED_ATTRIBUTES = DEFINED_ATTRIBUTES | _WRITTEN | _WRITE_LOCKED
"""The same after writing and locking."""

_CHUNK = 1024


def write_certificate(tpm: Swtpm, nv_index: int, der: bytes) -> bool:
    """Put a certificate into an NV index and lock it; whatever else is at the index is removed first.

    Args:
        tpm: a TPM with power.
        nv_index: the index, for example 0x01C00002; `vtpm.wire.templates` has the index of each key.
        der: the certificate, 1 to 2,048 bytes.

    Returns:
        whether it was written; False if the index held just this, locked, already.

    Raises:
        TpmError: the certificate is empty or too large, the TPM refused (a guest may have filled the NV memory), or
            has gone.
    """
    if not 1 <= len(der) <= MAX_CERTIFICATE:
        raise TpmError(
            f"a certificate in NV memory has 1 to {MAX_CERTIFICATE} bytes, this one has {len(der)}"
        )
    with tpm.esapi(f"writing the certificate at {nv_index:08x}") as esapi:
        held = _find(esapi, nv_index)
        if held is not None:
            handle, attributes, size = held
            if attributes == LOCKED_ATTRIBUTES and size == len(der) and _read(esapi, handle, size) == der:
                return False
            esapi.nv_undefine_space(handle, ESYS_TR.PLATFORM)
        public = TPMS_NV_PUBLIC(
            nvIndex=nv_index,
            nameAlg=TPM2_ALG.SHA256,
            attributes=TPMA_NV(DEFINED_ATTRIBUTES),
            dataSize=len(der),
        )
        index = esapi.nv_define_space(None, TPM2B_NV_PUBLIC(public), ESYS_TR.PLATFORM)
        for offset in range(0, len(der), _CHUNK):
            esapi.nv_write(index, der[offset : offset + _CHUNK], offset, ESYS_TR.PLATFORM)
        esapi.nv_write_lock(index, ESYS_TR.PLATFORM)
        if _read(esapi, index, len(der)) != der:
            raise TpmError(f"the certificate at {nv_index:08x} does not read back as written")
    return True


def read_certificate(tpm: Swtpm, nv_index: int) -> bytes | None:
    """The certificate at an NV index; None if there is none, or what is there was not written by `write_certificate`.

    A guest's owner can define an index that the SVSM has left free; such an index is not taken for ours.

    Raises:
        TpmError: the TPM refused, or has gone.
    """
    with tpm.esapi(f"reading the certificate at {nv_index:08x}") as esapi:
        held = _find(esapi, nv_index)
        if held is None or held[1] != LOCKED_ATTRIBUTES:
            return None
        return _read(esapi, held[0], held[2])


def _find(esapi: ESAPI, nv_index: int) -> tuple[ESYS_TR, int, int] | None:
    """Handle, attributes and size of an NV index; None if it is not defined."""
    try:
        handle = esapi.tr_from_tpmpublic(nv_index)
        public, _ = esapi.nv_read_public(handle)
    except TSS2_Exception:
        return None
    return handle, int(public.nvPublic.attributes), int(public.nvPublic.dataSize)


def _read(esapi: ESAPI, handle: ESYS_TR, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        data += bytes(esapi.nv_read(handle, min(_CHUNK, size - len(data)), len(data), ESYS_TR.PLATFORM))
    return bytes(data)
