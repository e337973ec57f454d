"""Names that the profiles put together, each in one place."""

import hashlib
import re
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import NameOID

from ca_service.profiles.model import CaRole, IssuerRole, Mode, serial_hex

SIMULATION_MARK = "SIMULATION"
"""Stands in every name of a simulation CA, and in no name of a production CA."""

DEVICE_COMMON_NAME = "vTPM"
DEVICE_SERIAL_DIGITS = 32

KEY_ID_SIZE = 20
"""Octets of a subject key identifier."""

DEFAULT_PAIR = "default"
"""The pair of EK and DevID CA that every CA begins with; its name does not show in theirs."""

_TITLES: dict[CaRole, str] = {
    "root": "Root CA",
    "ek": "EK CA",
    "devid": "DevID CA",
    "ephemeral": "Ephemeral CA",
}

_ISSUING: tuple[IssuerRole, ...] = ("ek", "devid", "ephemeral")
_GENERATION = re.compile(r"G([1-9][0-9]{0,2})\Z")


def ca_name(organization: str, mode: Mode, role: CaRole, pair: str, generation: int = 1) -> x509.Name:
    """Subject of a CA: the organisation; the mode's mark, the role and, but for the first, pair and generation.

    Generations differ in their names because keylime finds an issuer by its name and then tries one signature.
    """
    words = [_beginning(mode, role)]
    words += [pair] if pair not in ("", DEFAULT_PAIR) else []
    words += [f"G{generation}"] if generation > 1 else []
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, " ".join(words)),
        ]
    )


def _beginning(mode: Mode, role: CaRole) -> str:
    mark = f"{SIMULATION_MARK} " if mode == "simulation" else ""
    return f"{mark}vTPM {_TITLES[role]}"


@dataclass(frozen=True)
class CaTitle:
    """What the subject of an issuing CA says that it is."""

    role: IssuerRole
    pair: str
    generation: int


def read_ca_name(organization: str, mode: Mode, name: x509.Name) -> CaTitle | None:
    """Role, pair and generation of an issuing CA of this hierarchy from its subject; None if it has another form.

    The opposite of `ca_name`: whatever it returns gives, by `ca_name`, exactly `name`.
    """
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    text = str(found[0].value) if found else ""
    for role in _ISSUING:
        words = text.removeprefix(_beginning(mode, role)).split()
        last = _GENERATION.match(words[-1]) if words else None
        generation = int(last[1]) if last else 1
        pair = words[0] if len(words) > bool(last) else DEFAULT_PAIR
        if ca_name(organization, mode, role, pair, generation) == name:
            return CaTitle(role, pair, generation)
    return None


def device_serial(ek_name: bytes) -> str:
    """The device's serial number in subjects: first 32 hex digits of SHA-256 over the first EK's Name."""
    return hashlib.sha256(ek_name).hexdigest()[:DEVICE_SERIAL_DIGITS]


def device_name(ek_name: bytes) -> x509.Name:
    """Subject of IAK and IDevID certificates; the same for both."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, DEVICE_COMMON_NAME),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, device_serial(ek_name)),
        ]
    )


def printable_manufacturer(manufacturer: str) -> str:
    """The TCG vendor id as hwSerialNum wants it.

    Args:
        manufacturer: TPM_PT_MANUFACTURER, 8 lower-case hex digits.

    Returns:
        Its characters without padding, for example ``IBM``; the hex digits if they are no printable text.
    """
    text = bytes.fromhex(manufacturer).rstrip(b"\0 ")
    if text and all(0x21 <= c <= 0x7E and c != ord(":") for c in text):  # noqa: PLR2004 - printable ASCII
        return text.decode("ascii")
    return manufacturer


def hardware_serial(manufacturer: str, ek_aki: bytes, ek_serial: int) -> bytes:
    """The hwSerialNum of IAK and IDevID: manufacturer, the EK certificate's authority key id, and its serial.

    Source: TCG TPM 2.0 Keys for Device Identity and Attestation v1.00 r12, section 7 (form), own choice:
    lower case.
    """
    return f"{printable_manufacturer(manufacturer)}:{ek_aki.hex()}:{serial_hex(ek_serial)}".encode("ascii")


def key_id(public_key_der: bytes) -> bytes:
    """Subject key identifier: 160 bits of SHA-256 over subjectPublicKey (RFC 7093, section 2, method 1)."""
    return hashlib.sha256(public_key_der).digest()[:KEY_ID_SIZE]
