"""What a simulated chip derives from its secret: chip id and endorsement keys; and the report signature."""

import hmac
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from vtpm.snp.names import HWID_SIZE
from vtpm.wire.certtable import CertKind
from vtpm.wire.report import Product, pack_signature

_CHIP_ID: Final = 64
_P384_ORDER: Final = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)


def _derive(secret: bytes, label: bytes) -> bytes:
    return hmac.digest(secret, b"vtpm-ca simulated chip/" + label, "sha512")


def chip_id(secret: bytes, product: Product) -> bytes:
    """CHIP_ID of the chip with this secret: 64 bytes; on Turin 8 bytes and zeros."""
    return _derive(secret, b"id")[: HWID_SIZE[product]].ljust(_CHIP_ID, b"\0")


def endorsement_key(
    kind: CertKind, secret: bytes, product: Product, tcb: bytes
) -> ec.EllipticCurvePrivateKey:
    """The VCEK or VLEK of a TCB_VERSION, on P-384; the same at each call.

    A genuine VLEK derives from a seed that the cloud provider loads; here the chip's secret stands in for it.
    """
    label = kind.lower().encode("ascii") + b"/" + product.value.encode("ascii") + tcb
    # 64 bytes reduced to 384 bits: the bias is far below what anybody could see (FIPS 186-5, A.2.1).
    seed = int.from_bytes(_derive(secret, label), "big")
    return ec.derive_private_key(seed % (_P384_ORDER - 1) + 1, ec.SECP384R1())


def sign_body(body: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """The 512-byte signature field over the 0x2a0 signed bytes of a report: ECDSA P-384 with SHA-384."""
    return pack_signature(*decode_dss_signature(key.sign(body, ec.ECDSA(hashes.SHA384()))))
