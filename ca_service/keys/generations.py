"""Issuing CAs, one at a time: as the ceremony makes the first of each, and as an operator prepares the next."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.judgment import BadRequest, Conflict, Unavailable
from ca_service.keys import files
from ca_service.keys.authority import PublicAuthority, PublicIssuer, RootCa
from ca_service.keys.custody import Custody
from ca_service.keys.documents import check_pair
from ca_service.keys.facts import CaFacts, IssuerEntry
from ca_service.keys.hierarchy import Hierarchy
from ca_service.keys.layout import (
    CERTIFICATES,
    FACTS_FILE,
    KEYS_LOCK_FILE,
    NONCE_KEY_FILE,
    NONCE_PURPOSE,
    PRIVATE,
    RUN,
    issuer_purpose,
    issuer_stem,
)
from ca_service.keys.opening import key_ring, load_public, read_facts
from ca_service.keys.passphrase import PinSource, no_pin
from ca_service.keys.rewording import settle_private
from ca_service.keys.sealed import Sealer
from ca_service.profiles import DEFAULT_PAIR, Entropy, IssuerRole

_PAIR_ROLES: tuple[IssuerRole, ...] = ("ek", "devid")
_MOST_GENERATIONS = 999


@dataclass(frozen=True)
class MadeIssuer:
    """An issuing CA that was just made, and its entry for ``ca.toml``."""

    issuer: PublicIssuer
    entry: IssuerEntry


def make_issuer(
    directory: Path,
    hierarchy: Hierarchy,
    custody: Custody,
    root: RootCa,
    role: IssuerRole,
    pair: str = DEFAULT_PAIR,
    generation: int = 1,
) -> MadeIssuer:
    """Make key and certificate of an issuing CA below `directory`; the key comes first, and both are durable."""
    stem = issuer_stem(role, pair, generation)
    key = custody.generate(stem, issuer_purpose(role, pair, generation))
    issuer = hierarchy.make_issuing(role, pair, generation, key.signer, root)
    name = f"{stem}.pem"
    pem = issuer.certificate.public_bytes(Encoding.PEM)
    files.write_new(directory / CERTIFICATES / name, pem, files.PUBLIC_FILE)
    files.flush_directory(directory / CERTIFICATES)
    entry = IssuerEntry(
        role=role,
        pair=pair,
        certificate=name,
        key=key.reference,
        sha256=sha256(issuer.certificate.public_bytes(Encoding.DER)).hexdigest(),
        generation=generation,
    )
    return MadeIssuer(issuer, entry)


def prepare_issuing(
    directory: Path,
    root: RootCa,
    roles: Sequence[IssuerRole] = _PAIR_ROLES,
    pair: str = DEFAULT_PAIR,
    *,
    passphrase: bytes,
    clock: Callable[[], datetime],
    entropy: Entropy,
    pin: PinSource = no_pin,
    generations: Mapping[IssuerRole, int] | None = None,
    known: Collection[str] = (),
) -> list[PublicIssuer]:
    """Make the next generation of issuing CAs: key, certificate and entry in ``ca.toml``, all of them or none.

    The directory names them only when everything else is durable. What a try that died has left gives way. Who
    runs the CA takes notice of them when it opens the directory the next time.

    Args:
        directory: the CA's directory.
        root: its root, see `load_root`.
        roles: which issuing CAs to make, each at most once.
        pair: of which pair; a name that is not known yet begins a pair.
        passphrase: seals the keys; the one that opens the others.
        clock: gives the aware present time.
        entropy: source of serials and salts.
        pin: of the token, if the CA has its issuing CAs' keys on one.
        generations: for each role the number that its next one was allowed to have, which is beyond all that the
            CA's database knows; by default one more than the directory knows.
        known: key ids (hex) of the issuing CAs that the database knows; none of their files is touched.

    Returns:
        The new issuing CAs, in the order of `roles`.

    Raises:
        Conflict: the directory has had a next generation since `generations` was asked for (code ``rollover``), or
            holds files of a known issuing CA that ``ca.toml`` does not name (``issuer``).
        NotFound: there is no CA in that directory.
        BadRequest: `roles` or `pair` is no good; `root` is of another CA or has expired (code ``authority``); the
            passphrase is not the one of the other keys (``passphrase``).
        LintFailed: the certificate would be none that the profiles allow.
        Unavailable: the directory cannot be written (``storage``), or another process works on it (``busy``).
    """
    if not roles or len(set(roles)) != len(roles):
        raise BadRequest("role", "must name each issuing CA once, and at least one")
    check_pair(pair)
    try:
        with files.locked(directory / RUN / KEYS_LOCK_FILE):
            settle_private(directory)
            wanted = _Wanted(roles, pair, generations or {}, frozenset(known))
            return _prepare(directory, root, wanted, Sealer(passphrase), clock(), entropy, pin)
    except OSError as error:
        raise Unavailable(f"{directory} cannot be written: {error.strerror}", code="storage") from error


@dataclass(frozen=True)
class _Wanted:
    """What is to be made, and what must not be touched."""

    roles: Sequence[IssuerRole]
    pair: str
    generations: Mapping[IssuerRole, int]
    known: frozenset[str]

    def generation(self, public: PublicAuthority, role: IssuerRole) -> int:
        """The number of the next one; the lock on the directory is held."""
        there = [ca.generation for ca in public.issuers if ca.role == role and ca.pair == self.pair]
        following = max(there, default=0) + 1
        allowed = self.generations.get(role, following)
        if following > allowed:
            raise Conflict(
                f"another command has prepared the {role} CA of the pair {self.pair} meanwhile",
                code="rollover",
                remedy="See `vtpm-ca ca list`.",
            )
        if allowed > _MOST_GENERATIONS:
            raise BadRequest(
                "pair", f"has {_MOST_GENERATIONS} generations of the {role} CA; begin another pair"
            )
        return allowed


def _prepare(
    directory: Path,
    root: RootCa,
    wanted: _Wanted,
    sealer: Sealer,
    at: datetime,
    entropy: Entropy,
    pin: PinSource,
) -> list[PublicIssuer]:
    facts, public = read_facts(directory), load_public(directory)
    if root.certificate != public.root:
        raise BadRequest("root", "is not the root of this CA", code="authority")
    if root.certificate.not_valid_after_utc <= at:
        raise BadRequest(
            "root",
            "has expired",
            code="authority",
            remedy="Only a new CA helps: a root has no successor.",
        )
    # A key under a mistyped passphrase would be of no use to anybody.
    sealer.unseal(files.read_private(directory / PRIVATE / NONCE_KEY_FILE), purpose=NONCE_PURPOSE)
    custody = key_ring(facts, directory / PRIVATE, sealer, pin).custody(facts.keys.issuing, entropy)
    hierarchy = Hierarchy.of_authority(public, at.astimezone(UTC).replace(microsecond=0), entropy)
    made: list[MadeIssuer] = []
    text = ""
    try:
        for role in wanted.roles:
            generation = wanted.generation(public, role)
            stem = issuer_stem(role, wanted.pair, generation)
            _clear(directory, facts, stem, wanted.known, entropy(4).hex())
            made.append(make_issuer(directory, hierarchy, custody, root, role, wanted.pair, generation))
        entries = [*facts.issuer, *(one.entry for one in made)]
        text = facts.model_copy(update={"issuer": entries}).to_toml()
        CaFacts.from_toml(text)
        files.replace_file(directory / FACTS_FILE, text.encode(), files.PUBLIC_FILE)
    except BaseException:
        if (directory / FACTS_FILE).read_bytes() != text.encode():
            custody.discard()
            for one in made:
                (directory / CERTIFICATES / one.entry.certificate).unlink(missing_ok=True)
        raise
    return [one.issuer for one in made]


def _clear(directory: Path, facts: CaFacts, stem: str, known: frozenset[str], mark: str) -> None:
    """Put aside what a try that died has left. Nothing that ``ca.toml`` or the database knows is ever touched.

    A key is never deleted: whose it is shows only in its certificate, which may be missing.
    """
    named = {name for entry in facts.issuer for name in (entry.key, entry.certificate)}
    key, certificate = directory / PRIVATE / f"{stem}.sealed", directory / CERTIFICATES / f"{stem}.pem"
    if certificate.name not in named and certificate.exists():
        if _skid(certificate) in known:
            raise Conflict(
                f"{FACTS_FILE} does not name {CERTIFICATES}/{certificate.name}, which the database knows",
                code="issuer",
                remedy=f"Copy {FACTS_FILE} too from the node on which it was prepared.",
            )
        certificate.unlink()
    if key.name not in named and key.exists():
        key.rename(key.with_name(f"{key.name}.left-{mark}"))
        files.flush_directory(key.parent)


def _skid(path: Path) -> str | None:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        found = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except (ValueError, x509.ExtensionNotFound):
        return None
    return found.value.digest.hex()
