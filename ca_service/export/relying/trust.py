"""What a relying party trusts: one root, and what it needs to have beside it to judge what rests on the root."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ca_service.export.relying.files import UNREADABLE, read_certificates, read_lists
from ca_service.export.relying.lists import RevocationList
from ca_service.judgment import BadRequest
from ca_service.profiles import CaTitle, Mode, ca_name, read_ca_name
from ca_service.profiles.contract_subject import key_kind
from ca_service.profiles.reader_cryptography import read
from ca_service.profiles.rules_frame import EXTENSIONS
from ca_service.profiles.signed import is_signed_by
from ca_service.profiles.view import BC, KU, SKI, BasicConstraintsView, CertificateView

_MODES: tuple[Mode, ...] = ("production", "simulation")
_CA_USAGE = frozenset({"key_cert_sign", "crl_sign"})
_DIGITS = 64


@dataclass(frozen=True)
class Trust:
    """The root, issuing CAs and revocation lists.

    Only the root is trusted. Issuing CAs and lists are what others hand over: each counts if the root, or an issuing CA
    that counts, has signed it. So those of other CAs may lie among them.

    Attributes:
        root: the CA's root certificate.
        issuers: issuing CAs, of all generations whose certificates shall count.
        crls: DER of revocation lists, of the root and of issuing CAs.

    Raises:
        BadRequest: the root is none of a vTPM CA (member ``root``), or a list cannot be read (``crls``).
    """

    root: x509.Certificate
    issuers: tuple[x509.Certificate, ...]
    crls: tuple[bytes, ...] = field(default=(), repr=False)
    _lists: tuple[RevocationList, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        problem = _root_problem(self.root)
        if problem is not None:
            raise BadRequest("root", problem, remedy="Take certs/root.pem of the CA's directory.")
        lists = tuple(RevocationList.read(der, f"crls[{i}]") for i, der in enumerate(self.crls))
        object.__setattr__(self, "_lists", lists)

    @classmethod
    def load(
        cls,
        root: Path,
        issuers: Path | Sequence[Path],
        crls: Path | Sequence[Path] = (),
        *,
        root_sha256: str | None = None,
    ) -> Self:
        """Read files in PEM or DER.

        Args:
            root: the root's certificate.
            issuers: files, or a folder of which every ``*.pem``, ``*.cer``, ``*.crt`` and ``*.der`` is read.
            crls: the same for revocation lists, ``*.crl``, ``*.pem`` and ``*.der``.
            root_sha256: SHA-256 over the DER of the root that must lie there, 64 hex digits; None for any.

        Raises:
            BadRequest: a file or folder cannot be read, or holds something else; its path names it. One unreadable
                file refuses all: it may be the list that counts.
        """
        (certificate, *others) = read_certificates([root])
        if others:
            raise BadRequest(
                str(root), "holds more than one certificate", remedy="Leave the root alone in it."
            )
        if root_sha256 is not None:
            _check_digest(root, certificate, root_sha256)
        try:
            return cls(certificate, tuple(read_certificates(issuers)), tuple(read_lists(crls)))
        except BadRequest as error:
            if error.path != "root":
                raise
            raise BadRequest(str(root), error.detail.removeprefix("root: "), remedy=error.remedy) from None

    @property
    def lists(self) -> tuple[RevocationList, ...]:
        """The lists, read and not judged."""
        return self._lists

    @cached_property
    def organization(self) -> str:
        """O in the names of this CA."""
        return _organization(self.root)

    @cached_property
    def mode(self) -> Mode:
        """Whether it is a production CA or a simulation."""
        (mode,) = _modes(self.root)
        return mode

    @cached_property
    def root_key_id(self) -> bytes:
        """The root's subject key id."""
        return self.root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest

    def title(self, issuer: x509.Certificate) -> CaTitle | None:
        """Role, pair and generation of an issuing CA by its name; None if that is of another CA's form."""
        try:
            return read_ca_name(self.organization, self.mode, issuer.subject)
        except UNREADABLE:
            return None

    def certified(self, issuer: x509.Certificate) -> bool:
        """Whether the root has signed an issuing CA's certificate; nothing else of it is looked at."""
        return is_signed_by(issuer.public_bytes(Encoding.DER), self.root.public_key())


def _organization(root: x509.Certificate) -> str:
    found = root.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return str(found[0].value) if found else ""


def _modes(root: x509.Certificate) -> list[Mode]:
    organization = _organization(root)
    # An organisation that `ca_name` would not take makes no name of a CA either.
    return [m for m in _MODES if organization and ca_name(organization, m, "root", "") == root.subject]


def _root_problem(root: x509.Certificate) -> str | None:
    try:
        view = read(root.public_bytes(Encoding.DER))
        mode = _modes(root)
    except UNREADABLE as error:
        return f"cannot be read: {error}"
    if not mode or view.subject.der != view.issuer.der:
        return "is no root of a vTPM CA: it has another name"
    return ca_problem(view, 1) or (
        None
        if is_signed_by(root.public_bytes(Encoding.DER), root.public_key())
        else "is not signed by its own key"
    )


def ca_problem(view: CertificateView, path_length: int) -> str | None:
    """What is wrong with a certificate as one of this CA's own: the extensions of its profile, and what they say.

    Args:
        view: what it says.
        path_length: how many CAs may follow: 1 below which it is the root, 0 for an issuing CA.
    """
    wanted = EXTENSIONS["root-ca" if path_length else "issuing-ca"]
    if {e.id: e.critical for e in view.extensions} != wanted:
        return "has other extensions than a CA certificate of this profile"
    extension = {e.id: e.value for e in view.extensions}
    if extension[BC] != BasicConstraintsView(ca=True, path_length=path_length):
        return f"is no CA with path length {path_length}"
    if extension[KU] != _CA_USAGE:
        return "may not sign certificates and revocation lists"
    if key_kind(view.spki) != "P-384" or not extension[SKI]:
        return "has no key on P-384, or no subjectKeyIdentifier"
    return None


def _check_digest(path: Path, certificate: x509.Certificate, wanted: str) -> None:
    if len(wanted) != _DIGITS or wanted.strip("0123456789abcdef"):
        raise BadRequest("root_sha256", f"must be {_DIGITS} lower-case hex digits")
    found = hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()
    if found != wanted:
        raise BadRequest(
            str(path),
            f"is another root than the pinned one: its SHA-256 is {found}",
            remedy="Put the right root there; change the pin only if you have compared the digest another way.",
        )
