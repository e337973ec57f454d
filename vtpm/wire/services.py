"""The services manifest of the SVSM's guest-facing attestation protocol, and the REPORT_DATA made over it.

A manifest is the GUID of the table, u32 total length, u32 count, per service {GUID, u32 offset from the
start, u32 length}, then the services' data in the same order; integers little endian, GUIDs in mixed-endian
order. Source: AMD 58019 (Secure VM Service Module for SEV-SNP Guests), chapter 7.
"""

import hashlib
import uuid
from collections.abc import Mapping
from typing import Final

from vtpm.wire.errors import WireError

SERVICES_GUID: Final = uuid.UUID("63849ebb-3d92-4670-a1ff-58f9c94b87bb")
"""Opens every services manifest."""

VTPM_SERVICE: Final = uuid.UUID("c476f1eb-0123-45a5-9641-b4e7dde5bfe3")
"""The vTPM; its manifest of version 0 is one bare TPMT_PUBLIC, the EK's."""

UEFI_MM_SERVICE: Final = uuid.UUID("a4453a59-9e1b-4787-a033-1986d6adbe55")
"""The UEFI variable store; its manifest is u32 version 0 and u32 flags."""

KBS_SERVICE: Final = uuid.UUID("6f8d87af-5e7f-4f40-9585-bfc809809566")
"""Our addition: what the SVSM remembers of its key broker, as `amd_evidence.ServicesManifest` reads it.

AMD has no service for it. The id is random (RFC 9562, version 4), so it can meet no other."""

NONCE_SIZE: Final = 64
"""Bytes of the nonce that the protocol demands."""

MAX_MANIFEST: Final = 64 * 1024
"""Largest manifest in bytes that is read."""

_MAX_SERVICES: Final = 16
_HEAD: Final = 24
_ENTRY: Final = 24
_GUID: Final = 16


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")


def pack_services(services: Mapping[uuid.UUID, bytes]) -> bytes:
    """Write a manifest, services in the order of the mapping.

    Raises:
        WireError: too many services, or more than 64 KiB in all.
    """
    if len(services) > _MAX_SERVICES:
        raise WireError("manifest", f"must have at most {_MAX_SERVICES} services")
    offset = _HEAD + _ENTRY * len(services)
    total = offset + sum(len(data) for data in services.values())
    if total > MAX_MANIFEST:
        raise WireError("manifest", f"must be at most {MAX_MANIFEST} bytes, is {total}")
    out = bytearray(SERVICES_GUID.bytes_le)
    out += total.to_bytes(4, "little") + len(services).to_bytes(4, "little")
    for guid, data in services.items():
        out += guid.bytes_le + offset.to_bytes(4, "little") + len(data).to_bytes(4, "little")
        offset += len(data)
    return bytes(out) + b"".join(services.values())


def parse_services(data: bytes, path: str = "manifest") -> dict[uuid.UUID, bytes]:
    """Read a manifest that holds its services' data in order, without gap and without rest.

    One list of services has exactly one accepted form, so that nothing can hide between the services.

    Raises:
        WireError: any other form.
    """
    if not _HEAD <= len(data) <= MAX_MANIFEST:
        raise WireError(path, f"must be {_HEAD} to {MAX_MANIFEST} bytes, is {len(data)}")
    if data[:_GUID] != SERVICES_GUID.bytes_le:
        raise WireError(path, "must begin with the GUID of a services manifest")
    if _u32(data, _GUID) != len(data):
        raise WireError(path, "the stated length must be its size")
    count = _u32(data, _GUID + 4)
    if count > _MAX_SERVICES:
        raise WireError(path, f"must have at most {_MAX_SERVICES} services")
    end = _HEAD + _ENTRY * count
    if end > len(data):
        raise WireError(path, "is too short for its services")
    services: dict[uuid.UUID, bytes] = {}
    for i in range(count):
        at = f"{path}[{i}]"
        entry = data[_HEAD + _ENTRY * i :][:_ENTRY]
        guid = uuid.UUID(bytes_le=entry[:_GUID])
        offset, length = _u32(entry, _GUID), _u32(entry, _GUID + 4)
        if guid in services:
            raise WireError(at, "the GUID stands twice")
        if offset != end or offset + length > len(data):
            raise WireError(at, "must follow the service before it and lie within the manifest")
        end = offset + length
        services[guid] = data[offset:end]
    if end != len(data):
        raise WireError(path, "has bytes that belong to no service")
    return services


def services_report_data(nonce: bytes, manifest: bytes) -> bytes:
    """REPORT_DATA of the protocol: SHA-512 over the 64-byte nonce and the manifest.

    For a single service `manifest` is that service's own data; for all services it is the services manifest.

    Raises:
        WireError: the nonce is not 64 bytes.
    """
    if len(nonce) != NONCE_SIZE:
        raise WireError("nonce", f"must be {NONCE_SIZE} bytes, is {len(nonce)}")
    return hashlib.sha512(nonce + manifest).digest()
