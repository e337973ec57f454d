"""Issuing CAs, one at a time: as the ceremony makes the first of each, and as an operator prepares the next."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.judgment import BadRequest, Unavailable
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
) -> list[PublicIssuer]:
    """Make the next generation of issuing CAs: key, certificate and entry in ``ca.toml``, all of them or none.

    The directory names them only when everything else is durable. What a try that died has left is replaced. Who
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

    Returns:
        The new issuing CAs, in the order of `roles`.

    Raises:
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
            return _prepare(directory, root, roles, pair, Sealer(passphrase), clock(), entropy, pin)
    except OSError as error:
        raise Unavailable(f"{directory} cannot be written: {error.strerror}", code="storage") from error


def _prepare(
    directory: Path,
    root: RootCa,
    roles: Sequence[IssuerRole],
    pair: str,
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
        for role in roles:
            generation = _next_generation(public, role, pair)
            _clear(directory, facts, issuer_stem(role, pair, generation))
            made.append(make_issuer(directory, hierarchy, custody, root, role, pair, generation))
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


def _next_generation(public: PublicAuthority, role: IssuerRole, pair: str) -> int:
    known = [ca.generation for ca in public.issuers if ca.role == role and ca.pair == pair]
    generation = max(known, default=0) + 1
    if generation > _MOST_GENERATIONS:
        raise BadRequest("pair", f"has {_MOST_GENERATIONS} generations of the {role} CA; begin another pair")
    return generation


def _clear(directory: Path, facts: CaFacts, stem: str) -> None:
    """Take away what a try that died has left. Nothing that ``ca.toml`` names is ever touched."""
    leftovers = ((PRIVATE, f"{stem}.sealed"), (CERTIFICATES, f"{stem}.pem"))
    named = {name for entry in facts.issuer for name in (entry.key, entry.certificate)}
    for folder, name in leftovers:
        if name not in named:
            (directory / folder / name).unlink(missing_ok=True)
