"""The simulated signing service: ARK, ASK and the VCEK certificates that AMD's KDS would hand out.

The shipped chain is the same in every checkout, so that simulated platforms and simulation CAs fit together
without an exchange of files. Its ASK private key is public on purpose: whoever has it can simulate a
processor, and nothing that matters may trust it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from vtpm.snp.names import name, vcek_extensions
from vtpm.wire.report import Product

_PSS: Final = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
_CA_LIFETIME: Final = timedelta(days=25 * 365)
_VCEK_LIFETIME: Final = timedelta(days=7 * 365)
_EPOCH: Final = datetime(2025, 1, 1, tzinfo=UTC)
"""From when on a made chain is valid; fixed, so that a simulated past works too."""

_UNIT: Final = "SIMULATED"
_ORGANIZATION: Final = "vtpm-ca simulated platform"
_TBS_SERIAL: Final = 9
"""Offset of the serial number in TBS bytes of 256 to 65,535 bytes: behind SEQUENCE header and version."""


def _der(tag: int, content: bytes) -> bytes:
    """One DER value with a definite length."""
    size = len(content)
    if size < 0x80:  # noqa: PLR2004 - DER's short form
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _authority(
    common_name: str,
    public_key: rsa.RSAPublicKey,
    issuer_name: str,
    issuer_key: rsa.RSAPrivateKey,
    serial: int,
    not_before: datetime,
) -> x509.Certificate:
    """A CA certificate as AMD makes ARK and ASK; self-signed when both names are the same."""
    root = common_name == issuer_name
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=root,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(common_name, unit=_UNIT, organization=_ORGANIZATION))
        .issuer_name(name(issuer_name, unit=_UNIT, organization=_ORGANIZATION))
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(not_before)
        .not_valid_after(not_before + _CA_LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None if root else 0), critical=True)
        .add_extension(usage, critical=True)
    )
    if not root:
        issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        builder = builder.add_extension(issuer_id, critical=False)
    return builder.sign(issuer_key, hashes.SHA384(), rsa_padding=_PSS)


@dataclass(frozen=True)
class SimulatedChain:
    """A signing service for one product.

    Attributes:
        product: whose processors it certifies.
        ark: root certificate, self-signed.
        ask: intermediate certificate, signed by the ARK.
        ask_key: signs VCEK certificates.
        ark_key: None for the shipped chain, whose ARK key no longer exists.
    """

    product: Product
    ark: x509.Certificate
    ask: x509.Certificate
    ask_key: rsa.RSAPrivateKey = field(repr=False)
    ark_key: rsa.RSAPrivateKey | None = field(default=None, repr=False)

    @classmethod
    @cache
    def shipped(cls) -> Self:
        """The well-known Milan chain that simulation CAs trust and production CAs never do."""
        data = resources.files("vtpm.snp") / "data"
        key = load_pem_private_key((data / "simulated-ask-key.pem").read_bytes(), None)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise TypeError("the simulated ASK key is no RSA key")
        ark, ask = (
            x509.load_pem_x509_certificate((data / file).read_bytes()) for file in ("ark.pem", "ask.pem")
        )
        return cls(Product.MILAN, ark, ask, key)

    def issue_vcek(
        self,
        public_key: ec.EllipticCurvePublicKey,
        *,
        hwid: bytes,
        tcb: bytes,
        not_before: datetime,
        not_after: datetime | None = None,
        common_name: str = "SEV-VCEK",
        replaced: Mapping[str, bytes] | None = None,
    ) -> bytes:
        """The DER certificate of a chip endorsement key, with AMD's extensions and serial number 0.

        Args:
            public_key: on P-384.
            hwid: chip id, 64 bytes (Turin: 8).
            tcb: the 8-byte TCB_VERSION that the key is derived for.
            not_before: start of validity.
            not_after: its end; by default seven years later, as AMD does.
            common_name: of the subject, for tests of verifiers.
            replaced: other extension values by dotted OID, for tests of verifiers; an empty value leaves the
                extension out.
        """
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(common_name, unit=_UNIT, organization=_ORGANIZATION))
            .issuer_name(self.ask.subject)
            .public_key(public_key)
            .serial_number(1)
            .not_valid_before(not_before)
            .not_valid_after(not_after or not_before + _VCEK_LIFETIME)
        )
        values = {e.oid.dotted_string: e.value for e in vcek_extensions(self.product, hwid, tcb)}
        values.update(replaced or {})
        for oid, value in values.items():
            if value:
                builder = builder.add_extension(
                    x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False
                )
        made = builder.sign(self.ask_key, hashes.SHA384(), rsa_padding=_PSS)
        return self._with_serial_zero(made)

    def _with_serial_zero(self, made: x509.Certificate) -> bytes:
        """Sign the same contents under serial 0, which the builder refuses and AMD uses everywhere."""
        tbs = bytearray(made.tbs_certificate_bytes)
        if tbs[_TBS_SERIAL : _TBS_SERIAL + 3] != b"\x02\x01\x01":
            raise ValueError("the serial number is not where a VCEK has it")
        tbs[_TBS_SERIAL + 2] = 0
        signature = self.ask_key.sign(bytes(tbs), _PSS, hashes.SHA384())
        whole = made.public_bytes(Encoding.DER)
        start = whole.index(made.tbs_certificate_bytes) + len(tbs)
        algorithm = whole[start : -len(_der(0x03, b"\0" + made.signature))]
        return _der(0x30, bytes(tbs) + algorithm + _der(0x03, b"\0" + signature))


def new_simulated_chain(
    product: Product = Product.MILAN,
    *,
    label: str = "Foreign",
    bits: int = 4096,
    not_before: datetime = _EPOCH,
) -> SimulatedChain:
    """Make a whole new chain with fresh RSA keys, as a forger of processors would.

    No CA trusts it unless a test configures it as a root.

    Args:
        product: whose processors it pretends to certify.
        label: stands in the names: ``ARK-<label>-<product>`` and ``SEV-<label>-<product>``.
        bits: size of both RSA keys; AMD's are 4096, tests may take fewer.
        not_before: start of validity, which lasts 25 years.
    """
    ark_name, ask_name = f"ARK-{label}-{product}", f"SEV-{label}-{product}"
    ark_key, ask_key = (rsa.generate_private_key(public_exponent=65537, key_size=bits) for _ in range(2))
    ark = _authority(ark_name, ark_key.public_key(), ark_name, ark_key, 0x10000, not_before)
    ask = _authority(ask_name, ask_key.public_key(), ark_name, ark_key, 0x10001, not_before)
    return SimulatedChain(product, ark, ask, ask_key, ark_key)
