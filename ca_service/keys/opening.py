"""Opening a CA that lies in a directory, and checking that its parts belong together."""

import base64
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.judgment import BadRequest, NotFound, Unavailable
from ca_service.keys.authority import (
    Authority,
    IssuingCa,
    LogIdentity,
    PublicAuthority,
    PublicIssuer,
    RootCa,
)
from ca_service.keys.custody import KeyRing
from ca_service.keys.facts import CaFacts, IssuerEntry
from ca_service.keys.files import read_private, read_public
from ca_service.keys.layout import (
    ACTIVATION_KEY_FILE,
    ACTIVATION_PURPOSE,
    CERTIFICATES,
    FACTS_FILE,
    LOG_KEY_FILE,
    LOG_PURPOSE,
    NONCE_KEY_FILE,
    NONCE_PURPOSE,
    OFFLINE,
    PRIVATE,
    PRIVATE_NEXT,
    ROOT_KEY_FILE,
    ROOT_PURPOSE,
    SECRET_SIZE,
    issuer_purpose,
)
from ca_service.keys.passphrase import PinSource, no_pin
from ca_service.keys.sealed import Sealer
from ca_service.profiles import SIMULATION_MARK, IssuerInfo, ca_name


def load_public(directory: Path) -> PublicAuthority:
    """Read a CA's public side, and check that its parts belong together.

    Raises:
        NotFound: there is no CA in that directory.
        BadRequest: its files are malformed or contradict each other (code ``authority``).
    """
    return _public(directory, read_facts(directory))


def load_authority(directory: Path, passphrase: bytes, pin: PinSource = no_pin) -> Authority:
    """Read a CA with the secrets that it works with.

    Args:
        directory: the CA's directory.
        passphrase: of the sealed files.
        pin: of the token, if issuing CAs have their keys on one.

    Raises:
        NotFound: there is no CA in that directory.
        BadRequest: as `load_public`; a secret's file may be accessed by others (``permissions``) or does not
            open (``passphrase``); the token refuses the PIN (``pin``) or has no module (``pkcs11``).
        Unavailable: the directory is one of an earlier release (``upgrade``); the token is out of reach
            (``token``), or cannot be used with what is installed (``pkcs11``).
    """
    return open_authority(directory, Sealer(passphrase), pin)


def open_authority(directory: Path, sealer: Sealer, pin: PinSource) -> Authority:
    """As `load_authority`, with a sealer that may know the derived key already."""
    facts = read_facts(directory)
    public, private = _public(directory, facts), private_folder(directory)
    if public.log is None:
        raise Unavailable(
            f"{directory} was made by an earlier release: it has no log key",
            code="upgrade",
            remedy="Run `vtpm-ca db upgrade`.",
        )
    ring = key_ring(facts, private, sealer, pin)
    issuers = []
    for entry, issuer in zip(facts.issuer, public.issuers, strict=True):
        purpose = issuer_purpose(entry.role, entry.pair, entry.generation)
        signer = ring.signer(entry.key, purpose, issuer.info)
        issuers.append(
            IssuingCa(
                pair=issuer.pair,
                role=issuer.role,
                certificate=issuer.certificate,
                info=issuer.info,
                signer=signer,
                generation=issuer.generation,
            )
        )
    return Authority(
        directory=directory,
        ca_id=public.ca_id,
        mode=public.mode,
        organization=public.organization,
        publication_url=public.publication_url,
        serial_prefix=public.serial_prefix,
        validity=public.validity,
        root=public.root,
        issuers=tuple(issuers),
        nonce_key=_secret(sealer, private / NONCE_KEY_FILE, NONCE_PURPOSE),
        activation_key=_secret(sealer, private / ACTIVATION_KEY_FILE, ACTIVATION_PURPOSE),
        log_key=_log_key(sealer, private / LOG_KEY_FILE, public.log),
        log=public.log,
        state_kept=public.state_kept,
        publication=public.publication,
    )


def load_root(
    directory: Path, passphrase: bytes, key_file: Path | None = None, pin: PinSource = no_pin
) -> RootCa:
    """Read the root with its key, for the few things that need it.

    Args:
        directory: the CA's directory.
        passphrase: of the sealed key.
        key_file: the sealed key, if it is not in its place because it was taken offline.
        pin: of the root's token, if it is on one.

    Raises:
        NotFound: there is no CA, or the key is not there.
        BadRequest: as `load_authority`; a file is named and the key is on a token (code ``authority``).
        Unavailable: as `load_authority`, but for the release.
    """
    facts = read_facts(directory)
    public, sealer = _public(directory, facts), Sealer(passphrase)
    if facts.root.key is not None:
        if key_file is not None:
            raise BadRequest(
                "root", f"has its key on a token, {facts.root.key}, and not in a file", code="authority"
            )
        ring, reference = key_ring(facts, directory / OFFLINE, sealer, pin), facts.root.key
    else:
        path = key_file or directory / OFFLINE / ROOT_KEY_FILE
        if not path.exists():
            raise NotFound(
                f"the root's key is not at {path}",
                remedy="Bring the medium and name the sealed file; transcript.txt says where the ceremony put it.",
            )
        ring, reference = KeyRing(path.parent, sealer), path.name
    return RootCa(public.root, public.root_info, ring.signer(reference, ROOT_PURPOSE, public.root_info))


def private_folder(directory: Path) -> Path:
    """Where the sealed files lie: in ``private/``, or in what is about to take its place.

    A change of passphrase may have ended just between the two renames.
    """
    private, following = directory / PRIVATE, directory / PRIVATE_NEXT
    return following if following.is_dir() and not private.exists() else private


def key_ring(facts: CaFacts, folder: Path, sealer: Sealer, pin: PinSource) -> KeyRing:
    """Finds this CA's keys in a folder of its, and on tokens."""
    return KeyRing(folder, sealer, None if facts.pkcs11 is None else facts.pkcs11.module, pin)


def read_facts(directory: Path) -> CaFacts:
    """Read ``ca.toml``; raises NotFound or BadRequest."""
    try:
        text = read_public(directory / FACTS_FILE).decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest(FACTS_FILE, "must be UTF-8 text") from None
    return CaFacts.from_toml(text)


def _public(directory: Path, facts: CaFacts) -> PublicAuthority:
    public = PublicAuthority(
        directory=directory,
        ca_id=facts.ca_id,
        mode=facts.mode,
        organization=facts.organization,
        publication_url=facts.publication_url,
        serial_prefix=facts.serial_prefix,
        validity=facts.validity,
        root=_read_certificate(directory, facts.root.certificate, facts.root.sha256),
        issuers=tuple(_public_issuer(directory, facts, entry) for entry in facts.issuer),
        log=_log_identity(facts),
        state_kept=facts.state_kept,
        publication=facts.publication,
    )
    _check_hierarchy(public)
    return public


def _read_certificate(directory: Path, name: str, digest: str) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(read_public(directory / CERTIFICATES / name))
    except ValueError:
        raise BadRequest(name, "must be a PEM certificate", code="authority") from None
    if sha256(certificate.public_bytes(Encoding.DER)).hexdigest() != digest:
        raise BadRequest(name, f"is not the certificate that {FACTS_FILE} names", code="authority")
    return certificate


def _public_issuer(directory: Path, facts: CaFacts, entry: IssuerEntry) -> PublicIssuer:
    certificate = _read_certificate(directory, entry.certificate, entry.sha256)
    said = facts.publication
    info = IssuerInfo(certificate, facts.publication_url, entry.role, said.shards, said.ocsp)
    return PublicIssuer(entry.pair, entry.role, certificate, info, generation=entry.generation)


def _log_identity(facts: CaFacts) -> LogIdentity | None:
    if facts.log is None:
        return None
    return LogIdentity(facts.log.origin, base64.urlsafe_b64decode(facts.log.public + "="))


def _check_hierarchy(public: PublicAuthority) -> None:
    """The facts are an editable file; the certificates are not, so they have the last word about the mode."""
    for certificate in (public.root, *(issuer.certificate for issuer in public.issuers)):
        try:
            certificate.verify_directly_issued_by(public.root)
        except (ValueError, TypeError, InvalidSignature):
            detail = "names a certificate that this root did not sign"
            raise BadRequest(FACTS_FILE, detail, code="authority") from None
        names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        marked = any(SIMULATION_MARK in str(name.value) for name in names)
        if marked != (public.mode == "simulation"):
            raise BadRequest(FACTS_FILE, "states another mode than the certificates", code="authority")
    for issuer in public.issuers:
        name = ca_name(public.organization, public.mode, issuer.role, issuer.pair, issuer.generation)
        if issuer.certificate.subject != name:
            detail = "states another role, pair or generation than a certificate's subject"
            raise BadRequest(FACTS_FILE, detail, code="authority")


def _secret(sealer: Sealer, path: Path, purpose: str) -> bytes:
    secret = sealer.unseal(read_private(path), purpose=purpose)
    if len(secret) != SECRET_SIZE:
        raise BadRequest(path.name, f"must hold {SECRET_SIZE} bytes", code="authority")
    return secret


def _log_key(sealer: Sealer, path: Path, log: LogIdentity) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.from_private_bytes(_secret(sealer, path, LOG_PURPOSE))
    if key.public_key().public_bytes_raw() != log.public:
        raise BadRequest(path.name, f"does not hold the log key that {FACTS_FILE} names", code="authority")
    return key
