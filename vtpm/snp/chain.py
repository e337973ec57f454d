"""The simulated signing service: ARK, ASK, ASVK, and what they sign as AMD's KDS hands it out.

The shipped chains are the same in every checkout, so that simulated platforms and simulation CAs fit together
without an exchange of files. Their private keys are public on purpose; nothing that matters may trust them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from vtpm.errors import UsageError
from vtpm.snp.authority import authority_certificate as _authority
from vtpm.snp.authority import revocation_list
from vtpm.snp.forms import LeafForm, SignatureForm
from vtpm.snp.leaf import LeafContent, encode_leaf
from vtpm.snp.names import (
    ASK_DISTANCE,
    ASVK_DISTANCE,
    FIRST_SERIAL,
    common_name_of,
    simulated_name,
    vcek_extensions,
    vlek_extensions,
)
from vtpm.wire.certtable import CertKind
from vtpm.wire.report import Product

_YEAR: Final = timedelta(days=365)
_VCEK_LIFETIME: Final = 7 * _YEAR
_EPOCH: Final = datetime(2025, 1, 1, tzinfo=UTC)
"""From when on a made chain is valid; fixed, so that a simulated past works too."""

DEFAULT_CSP_ID: Final = "CN=cc-simulated-1.example"
"""CSP_ID of a VLEK unless another is asked for."""


@dataclass(frozen=True)
class SimulatedChain:
    """A signing service for one product.

    Attributes:
        product: whose processors it certifies.
        ark: root certificate, self-signed.
        ask: intermediate certificate, signed by the ARK.
        ask_key: signs VCEK certificates.
        ark_key: signs intermediates and CRLs; None for the shipped Milan chain, whose ARK key no longer exists.
        asvk: the VLEKs' intermediate certificate, signed by the ARK; None for the shipped Milan chain.
        asvk_key: signs VLEK certificates.
    """

    product: Product
    ark: x509.Certificate
    ask: x509.Certificate
    ask_key: rsa.RSAPrivateKey = field(repr=False)
    ark_key: rsa.RSAPrivateKey | None = field(default=None, repr=False)
    asvk: x509.Certificate | None = None
    asvk_key: rsa.RSAPrivateKey | None = field(default=None, repr=False)

    @classmethod
    def shipped(cls, product: Product = Product.MILAN) -> "SimulatedChain":
        """The product's well-known chain that simulation CAs trust and production CAs never do.

        Milan's has neither ASVK nor the ARK's private key: it signs VCEKs only.
        """
        return _shipped(product)

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
        form: LeafForm | None = None,
    ) -> bytes:
        """The DER certificate of a chip endorsement key, with AMD's extensions and serial number 0.

        Args:
            public_key: on P-384.
            hwid: chip id, 64 bytes (Turin: 8).
            tcb: the 8-byte TCB_VERSION that the key is derived for.
            not_before: start of validity.
            not_after: its end; by default seven years later, as AMD does.
            common_name: of the subject, for tests of verifiers.
            replaced: short for `LeafForm.replaced`, and stronger than it.
            form: other deviations from AMD's form, for tests of verifiers.
        """
        content = LeafContent(
            simulated_name(common_name),
            self.ask.subject,
            public_key,
            not_before,
            not_after or not_before + _VCEK_LIFETIME,
            vcek_extensions(self.product, hwid, tcb),
        )
        return encode_leaf(content, self.ask_key, _with(form, replaced))

    def issue_vlek(
        self,
        public_key: ec.EllipticCurvePublicKey,
        *,
        tcb: bytes,
        not_before: datetime,
        csp_id: str = DEFAULT_CSP_ID,
        not_after: datetime | None = None,
        common_name: str = "SEV-VLEK",
        replaced: Mapping[str, bytes] | None = None,
        form: LeafForm | None = None,
    ) -> bytes:
        """The DER certificate of a cloud provider's loaded endorsement key, with AMD's extensions and serial number 0.

        Args:
            public_key: on P-384.
            tcb: the 8-byte TCB_VERSION that the key is derived for.
            not_before: start of validity.
            csp_id: the provider's name for the key, ASCII.
            not_after: its end; by default one year later, as AMD does.
            common_name: of the subject, for tests of verifiers.
            replaced: short for `LeafForm.replaced`, and stronger than it.
            form: other deviations from AMD's form, for tests of verifiers.

        Raises:
            UsageError: the chain has no ASVK.
        """
        if self.asvk is None or self.asvk_key is None:
            raise UsageError(f"this signing service for {self.product} has no ASVK")
        content = LeafContent(
            simulated_name(common_name),
            self.asvk.subject,
            public_key,
            not_before,
            not_after or not_before + _YEAR,
            vlek_extensions(self.product, csp_id, tcb),
        )
        return encode_leaf(content, self.asvk_key, _with(form, replaced))

    def issue_intermediate(
        self,
        kind: CertKind = CertKind.VCEK,
        *,
        serial: int,
        common_name: str | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        bits: int | None = None,
    ) -> Self:
        """The same service with a new intermediate: other key, other serial number, same name, same ARK.

        AMD once replaced Genoa's ASK so; the old one was revoked.

        Args:
            kind: VCEK for a new ASK, VLEK for a new ASVK, by what it signs.
            serial: of its certificate, above 0.
            common_name: of its subject; the present intermediate's by default.
            not_before: start of validity; the ARK's by default.
            not_after: its end; by default 25 years later.
            bits: size of its RSA key; the present ASK's by default.

        Raises:
            UsageError: the ARK's private key does not exist.
            ValueError: another kind.
        """
        if kind not in {CertKind.VCEK, CertKind.VLEK}:
            raise ValueError("an intermediate signs VCEKs or VLEKs")
        ark_key = self._ark_key()
        key = rsa.generate_private_key(public_exponent=65537, key_size=bits or self.ask_key.key_size)
        present = self.ask if kind is CertKind.VCEK or self.asvk is None else self.asvk
        certificate = _authority(
            common_name or common_name_of(present),
            key.public_key(),
            common_name_of(self.ark),
            ark_key,
            serial,
            not_before or self.ark.not_valid_before_utc,
            not_after,
        )
        if kind is CertKind.VCEK:
            return replace(self, ask=certificate, ask_key=key)
        return replace(self, asvk=certificate, asvk_key=key)

    def crl(
        self,
        serials: Iterable[int] = (),
        *,
        number: int | None = 1,
        this_update: datetime,
        next_update: datetime | None = None,
        added: Iterable[tuple[x509.ExtensionType, bool]] = (),
        signature: SignatureForm = SignatureForm.PSS_SHA384,
    ) -> bytes:
        """The ARK's certificate revocation list in DER, as KDS serves it: version 2, key id and CRL number.

        A forged one comes from a chain whose ``ark_key`` was replaced, one of another issuer if ``ark`` was too.

        Args:
            serials: serial numbers of the revoked intermediates, revoked at `this_update`.
            number: the CRL number; None leaves the extension out, for tests of verifiers.
            this_update: when it was made.
            next_update: when the next one is due; by default a year later.
            added: further extensions, each with whether it is critical, for tests of verifiers.
            signature: how the ARK signs, for tests of verifiers.

        Raises:
            UsageError: the ARK's private key does not exist.
        """
        return revocation_list(
            self.ark,
            self._ark_key(),
            serials,
            number=number,
            this_update=this_update,
            next_update=next_update or this_update + _YEAR,
            added=added,
            signature=signature,
        )

    def _ark_key(self) -> rsa.RSAPrivateKey:
        if self.ark_key is None:
            raise UsageError(
                f"the ARK's private key of this signing service for {self.product} does not exist"
            )
        return self.ark_key


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
        label: stands in the names: ``ARK-<label>-<product>``, ``SEV-<label>-<product>`` and
            ``SEV-VLEK-<label>-<product>``.
        bits: size of the three RSA keys; AMD's are 4096, tests may take fewer.
        not_before: start of validity, which lasts 25 years.
    """
    ark_name = f"ARK-{label}-{product}"
    ark_key, ask_key, asvk_key = (
        rsa.generate_private_key(public_exponent=65537, key_size=bits) for _ in range(3)
    )
    first = FIRST_SERIAL[product]

    def made(common_name: str, key: rsa.RSAPrivateKey, distance: int) -> x509.Certificate:
        return _authority(common_name, key.public_key(), ark_name, ark_key, first + distance, not_before)

    ark = made(ark_name, ark_key, 0)
    ask = made(f"SEV-{label}-{product}", ask_key, ASK_DISTANCE)
    asvk = made(f"SEV-VLEK-{label}-{product}", asvk_key, ASVK_DISTANCE)
    return SimulatedChain(product, ark, ask, ask_key, ark_key, asvk, asvk_key)


def _with(form: LeafForm | None, replaced: Mapping[str, bytes] | None) -> LeafForm:
    form = form or LeafForm()
    return replace(form, replaced=dict(form.replaced) | dict(replaced or {}))


@cache
def _shipped(product: Product) -> SimulatedChain:
    data = resources.files("vtpm.snp") / "data"

    def certificate(file: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate((data / file).read_bytes())

    def key(file: str) -> rsa.RSAPrivateKey:
        # OpenSSL's check of an RSA-4096 key takes a third of a second; these keys come with the package.
        loaded = load_pem_private_key((data / file).read_bytes(), None, unsafe_skip_rsa_key_validation=True)
        if not isinstance(loaded, rsa.RSAPrivateKey):
            raise TypeError(f"{file} holds no RSA key")
        return loaded

    if product is Product.MILAN:
        return SimulatedChain(
            product, certificate("ark.pem"), certificate("ask.pem"), key("simulated-ask-key.pem")
        )
    prefix = product.value.lower()
    return SimulatedChain(
        product,
        ark=certificate(f"{prefix}-ark.pem"),
        ask=certificate(f"{prefix}-ask.pem"),
        ask_key=key(f"simulated-{prefix}-ask-key.pem"),
        ark_key=key(f"simulated-{prefix}-ark-key.pem"),
        asvk=certificate(f"{prefix}-asvk.pem"),
        asvk_key=key(f"simulated-{prefix}-asvk-key.pem"),
    )
