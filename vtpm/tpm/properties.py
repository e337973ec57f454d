"""What the TPM says of itself (TPM_CAP_TPM_PROPERTIES, TPM 2.0 Library, Part 2, section 6.13)."""

from typing import NamedTuple

from vtpm.tpm.errors import TpmError
from vtpm.tpm.esapi import Bench
from vtpm.wire.statements import TpmSpec

_CAP_TPM_PROPERTIES = 6
_PT_FIXED = 0x00000100
_FAMILY, _LEVEL, _REVISION = _PT_FIXED, _PT_FIXED + 1, _PT_FIXED + 2
_MANUFACTURER = _PT_FIXED + 5
_VENDOR_STRINGS = tuple(range(_PT_FIXED + 6, _PT_FIXED + 10))
_FIRMWARE_1, _FIRMWARE_2 = _PT_FIXED + 11, _PT_FIXED + 12


class TpmProperties(NamedTuple):
    """Manufacturer and versions as evidence states them.

    Attributes:
        manufacturer: TPM_PT_MANUFACTURER, 8 lower-case hex digits.
        vendor: TPM_PT_VENDOR_STRING_1 to _4 in one, without zero bytes.
        firmware: TPM_PT_FIRMWARE_VERSION_1 and _2, 16 hex digits; equals TPMS_ATTEST.firmwareVersion.
        spec: family, level and revision of the specification.
    """

    manufacturer: str
    vendor: str
    firmware: str
    spec: TpmSpec


def properties(tpm: Bench) -> TpmProperties:
    """Read the fixed properties.

    Raises:
        TpmError: a property is missing or no printable ASCII, the TPM refused, or has gone.
    """
    with tpm.esapi("reading its properties") as esapi:
        _, data = esapi.get_capability(_CAP_TPM_PROPERTIES, _PT_FIXED, _FIRMWARE_2 - _PT_FIXED + 1)
        values = {int(entry.property): int(entry.value) for entry in data.data.tpmProperties}
    try:
        family = _text(values[_FAMILY])
        vendor = "".join(_text(values[part]) for part in _VENDOR_STRINGS)
        firmware = f"{values[_FIRMWARE_1]:08x}{values[_FIRMWARE_2]:08x}"
        spec = TpmSpec(family, str(values[_LEVEL]), str(values[_REVISION]))
        return TpmProperties(f"{values[_MANUFACTURER]:08x}", vendor, firmware, spec)
    except KeyError as error:
        raise TpmError("the TPM leaves out one of its fixed properties") from error


def _text(value: int) -> str:
    text = value.to_bytes(4, "big").replace(b"\0", b"").decode("ascii", "replace")
    if not (text.isascii() and text.isprintable()):
        raise TpmError("the TPM's properties are no printable text")
    return text
