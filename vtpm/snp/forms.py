"""How certificates and revocation lists may deviate from AMD's form, so that a verifier can be shown what to refuse."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from vtpm.snp import der

_RSASSA_PSS: Final = "1.2.840.113549.1.1.10"
_MGF1: Final = "1.2.840.113549.1.1.8"
_RSA_SHA384: Final = "1.2.840.113549.1.1.12"
_HASH_OID: Final = {"sha256": "2.16.840.1.101.3.4.2.1", "sha384": "2.16.840.1.101.3.4.2.2"}
_NULL: Final = b"\x05\x00"


class SignatureForm(Enum):
    """How an RSA intermediate signs; AMD uses the first only."""

    PSS_SHA384 = "RSASSA-PSS, SHA-384, salt 48"
    PSS_SHA256 = "RSASSA-PSS, SHA-256, salt 32"
    PSS_SHORT_SALT = "RSASSA-PSS, SHA-384, salt 32"
    PKCS1_SHA384 = "PKCS #1 v1.5, SHA-384"

    @property
    def hash(self) -> hashes.SHA256 | hashes.SHA384:
        """The hash of the message, and of MGF1."""
        return hashes.SHA256() if self is SignatureForm.PSS_SHA256 else hashes.SHA384()

    @property
    def padding(self) -> padding.PSS | padding.PKCS1v15:
        """The padding that `hash` goes into."""
        if self is SignatureForm.PKCS1_SHA384:
            return padding.PKCS1v15()
        return padding.PSS(mgf=padding.MGF1(self.hash), salt_length=self._salt)

    @property
    def _salt(self) -> int:
        return 48 if self is SignatureForm.PSS_SHA384 else 32

    def algorithm(self) -> bytes:
        """The AlgorithmIdentifier in DER (RFC 4055)."""
        if self is SignatureForm.PKCS1_SHA384:
            return der.sequence(der.object_identifier(_RSA_SHA384), _NULL)
        hashed = der.sequence(der.object_identifier(_HASH_OID[self.hash.name]), _NULL)
        mask = der.sequence(der.object_identifier(_MGF1), hashed)
        parameters = der.sequence(
            der.value(0xA0, hashed), der.value(0xA1, mask), der.value(0xA2, der.integer(self._salt))
        )
        return der.sequence(der.object_identifier(_RSASSA_PSS), parameters)


SigningKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class LeafForm:
    """What of a leaf deviates from AMD's form, for tests of verifiers; nothing by default.

    Attributes:
        replaced: other extension values by dotted OID, each the content of extnValue (so
            ``der.octet_string(hwid)`` wraps a chip id, and ``02 02 00 05`` is an INTEGER that is not minimal); an
            empty value leaves the extension out.
        added: further extensions behind the others, OID and value; one of the same OID makes a duplicate.
        critical: OIDs of the extensions that are marked critical.
        serial: the serial number.
        signature: how an RSA key signs.
        signer: who signs instead of the intermediate whose name stands as issuer.
        self_issued: whether the issuer's name is the subject's; with the leaf's own key as `signer` this is a
            self-signed leaf.
    """

    replaced: Mapping[str, bytes] = field(default_factory=dict)
    added: tuple[tuple[str, bytes], ...] = ()
    critical: frozenset[str] = frozenset()
    serial: int = 0
    signature: SignatureForm = SignatureForm.PSS_SHA384
    signer: SigningKey | None = field(default=None, repr=False)
    self_issued: bool = False
