"""How large a certificate may become, and what there is room for."""

from typing import Final

from ca_service.profiles.structures import ECDSA_WITH_SHA384

LONGEST_SIGNATURE: Final = 104
"""Octets of a P-384 ECDSA-Sig-Value at most."""

NV_SIZE: Final = 2048
"""One NV index of a TPM holds this many octets."""

_FRAME = len(ECDSA_WITH_SHA384) + 3 + LONGEST_SIGNATURE + 4
_IDENTITY_ROOM = 1400
_RSA_ROOM = {"RSA-2048": 1536, "RSA-3072": NV_SIZE}


def signed_size(tbs: bytes) -> int:
    """Octets of a certificate's DER at most, whatever its signature turns out to be."""
    return len(tbs) + _FRAME


def identity_room(key_kind: str) -> int:
    """Below how many octets an IAK's or IDevID's certificate has to stay, by the `key_kind` of its key.

    keylime's columns hold 1536 octets, and 1400 leaves room to spare. RSA-2048 keys need some of that room. An RSA-3072
    key does not fit into keylime's columns anyway, so only the NV index counts.
    """
    return _RSA_ROOM.get(key_kind, _IDENTITY_ROOM)
