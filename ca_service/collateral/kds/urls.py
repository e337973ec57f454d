"""Where AMD's Key Distribution Service keeps what. Source: AMD 57230, chapter on the KDS interface."""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from ca_service.evidence.snp.leaf import HWID_SIZE
from ca_service.judgment import BadRequest
from vtpm.wire.certtable import CertKind
from vtpm.wire.report import Product, tcb_components

AMD_KDS: Final = "https://kdsintf.amd.com"

_SERVICES: Final[Mapping[CertKind, str]] = {CertKind.VCEK: "vcek/v1", CertKind.VLEK: "vlek/v1"}
_PARAMETERS: Final[Mapping[str, str]] = {
    "fmc": "fmcSPL",
    "bootloader": "blSPL",
    "tee": "teeSPL",
    "snp": "snpSPL",
    "microcode": "ucodeSPL",
}
_BASE: Final = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+(?:/[A-Za-z0-9._~/-]*)?\Z")


def check_base(url: str) -> str:
    """The base URL of AMD's service or of a mirror of it, without a slash at its end.

    Plain HTTP will do for a mirror: what it hands out is signed, and judged as such. It may withhold things, though.

    Raises:
        BadRequest: it is no such URL, or has a user, a query or a fragment.
    """
    try:
        parts = urlsplit(url)
        valid = bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not _BASE.match(url):
        raise BadRequest("--kds-url", "must be a URL such as https://mirror.example/kds")
    return url.rstrip("/")


def vcek_path(product: Product, chip_id: bytes, tcb: bytes) -> str | None:
    """Where the VCEK of a chip for a TCB is, relative to the base: hexadecimal and decimal numbers only.

    Args:
        product: the processor generation.
        chip_id: 64 bytes, as CHIP_ID of a report; on Turin 8 bytes and zeros.
        tcb: 8 bytes, REPORTED_TCB of the report.

    Returns:
        None if the report names no chip of this product.

    Raises:
        WireError: `tcb` has another size.
    """
    size = HWID_SIZE[product]
    if not any(chip_id) or any(chip_id[size:]):
        return None
    numbers = (f"{_PARAMETERS[name]}={level:02d}" for name, level in tcb_components(tcb, product).items())
    return f"{_SERVICES[CertKind.VCEK]}/{product.value}/{chip_id[:size].hex()}?{'&'.join(numbers)}"


def chain_path(product: Product, kind: CertKind) -> str:
    """Where the authority for a kind of leaf is, in PEM together with its ARK."""
    return f"{_SERVICES[kind]}/{product.value}/cert_chain"


def crl_path(product: Product, kind: CertKind) -> str:
    """Where the ARK's revocation list is, in DER, as that kind's service offers it."""
    return f"{_SERVICES[kind]}/{product.value}/crl"
