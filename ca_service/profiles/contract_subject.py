"""What a consumer's contract looks at."""

from dataclasses import dataclass

from ca_service.profiles.model import Profile
from ca_service.profiles.outline import Outline, outline
from ca_service.profiles.view import SAN, CertificateView, ExtensionValue, GeneralNameView
from vtpm.wire.lazy import cached_property

_SPKI_HEADS = {
    ("RSA-2048", 294): "30820122300d06092a864886f70d01010105000382010f003082010a0282010100",
    ("RSA-3072", 422): "308201a2300d06092a864886f70d01010105000382018f003082018a0282018100",
    ("P-256", 91): "3059301306072a8648ce3d020106082a8648ce3d03010703420004",
    ("P-384", 120): "3076301006072a8648ce3d020106052b8104002203620004",
    ("P-521", 158): "30819b301006072a8648ce3d020106052b810400230381860004",
}
"""By the kind, and by the octets that the SubjectPublicKeyInfo then has, as the lengths in its head say."""
_BY_SIZE = {size: (bytes.fromhex(head), kind) for (kind, size), head in _SPKI_HEADS.items()}


def key_kind(spki: bytes) -> str:
    """The kind of a key by size and head of its DER SubjectPublicKeyInfo: ``RSA-2048``, ``P-384``; empty for others.

    RSA keys are those under rsaEncryption (RFC 3279, section 2.3.1), ECC keys those on named curves with uncompressed
    points (RFC 5480, section 2).
    """
    head, kind = _BY_SIZE.get(len(spki), (b"", ""))
    return kind if spki.startswith(head) else ""


@dataclass(frozen=True)
class ContractSubject:
    """What a consumer gets to see: `profile` of the certificate, its `view`, and the `size` of its DER in octets.

    For a draft, whose signature is not known yet, that is the largest size that it may come to.
    """

    profile: Profile
    view: CertificateView
    size: int

    def value(self, dotted: str) -> ExtensionValue | None:
        """The value of an extension, None if it is not there."""
        extension = self.view.by_id.get(dotted)
        return None if extension is None else extension.value

    @cached_property
    def key(self) -> str:
        """Its `key_kind`."""
        return key_kind(self.view.spki)

    @cached_property
    def names(self) -> tuple[GeneralNameView, ...]:
        """The names in its subjectAltName."""
        value = self.value(SAN)
        if not isinstance(value, tuple):
            return ()
        return tuple([name for name in value if not isinstance(name, str)])

    @cached_property
    def outline(self) -> Outline:
        """Its outline."""
        return outline(self.profile, self.view, self.key)
