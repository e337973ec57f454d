"""Signatures of attestation keys, as TPMT_SIGNATURE or as other tools write them; no octet reaches the C library.

Structure: TPM 2.0 Library, Part 2, section 11.3.4. Schemes: Part 1, annexes B.6 (RSASSA), B.7 (RSAPSS) and C.4 (ECDSA).
"""

from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from ca_service.residency.octets import Octets
from vtpm.wire.public_area import ALG_ECDSA, ALG_RSAPSS, ALG_RSASSA, Scheme

MAX_SIGNATURE: Final = 1024
"""Largest signature that is looked at, in octets; one by RSA-4096 has 518."""

HASHES: Final[dict[int, hashes.HashAlgorithm]] = {
    0x000B: hashes.SHA256(),
    0x000C: hashes.SHA384(),
    0x000D: hashes.SHA512(),
}
"""By TPM_ALG_ID, those that attestation keys may sign with."""

_RSA: Final = (ALG_RSASSA, ALG_RSAPSS)


@dataclass(frozen=True)
class KeySignature:
    """A signature with the scheme that it names, or is taken to be of.

    Attributes:
        scheme: algorithm and hash.
        numbers: r and s of ECDSA, or the one number of RSA, as octets.
    """

    scheme: Scheme
    numbers: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def read(cls, raw: bytes, own: Scheme) -> Self | None:
        """Read a TPMT_SIGNATURE, or a bare signature as tools for no TPM want it; None if it is neither.

        Args:
            raw: from anybody. Bare are the octets of an RSA signature, or a DER ECDSA-Sig-Value (RFC 3279, section
                2.2.3), which name no scheme.
            own: the scheme of the key that is said to have made it; that of a bare signature.
        """
        if len(raw) > MAX_SIGNATURE:
            return None
        try:
            return cls._structure(raw)
        except ValueError:
            pass
        try:
            return cls._bare(raw, own)
        except ValueError:
            return None

    @classmethod
    def _structure(cls, raw: bytes) -> Self:
        octets = Octets(raw)
        scheme = Scheme(octets.number(2), octets.number(2))
        if scheme.hash_algorithm not in HASHES or scheme.algorithm not in (*_RSA, ALG_ECDSA):
            raise ValueError("is of a scheme that no attestation key has")
        numbers = tuple(octets.sized(MAX_SIGNATURE) for _ in range(2 if scheme.algorithm == ALG_ECDSA else 1))
        octets.end()
        return cls(scheme, numbers)

    @classmethod
    def _bare(cls, raw: bytes, own: Scheme) -> Self:
        if own.algorithm in _RSA:
            return cls(own, (raw,))
        # Reads DER only, so a pair of numbers has one form here.
        pair = decode_dss_signature(raw)
        return cls(own, tuple(number.to_bytes((number.bit_length() + 7) // 8, "big") for number in pair))

    def holds(self, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, signed: bytes) -> bool:
        """Whether this is the key's signature over the octets, under its scheme."""
        digest = HASHES.get(self.scheme.hash_algorithm)
        size = (key.key_size + 7) // 8
        if digest is None:
            return False
        try:
            if isinstance(key, rsa.RSAPublicKey):
                (number,) = self.numbers
                if len(number) != size:
                    return False
                key.verify(number, signed, self._padding(digest), digest)
                return True
            if self.scheme.algorithm != ALG_ECDSA or not all(1 <= len(n) <= size for n in self.numbers):
                return False
            r, s = (int.from_bytes(number, "big") for number in self.numbers)
            key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(digest))
        except (InvalidSignature, UnsupportedAlgorithm, ValueError, OverflowError):
            return False
        return True

    def _padding(self, digest: hashes.HashAlgorithm) -> padding.AsymmetricPadding:
        if self.scheme.algorithm == ALG_RSASSA:
            return padding.PKCS1v15()
        if self.scheme.algorithm == ALG_RSAPSS:
            # TPMs salt with as many octets as the digest has, or as there is room for.
            return padding.PSS(padding.MGF1(digest), padding.PSS.AUTO)
        raise ValueError("is no RSA signature")
