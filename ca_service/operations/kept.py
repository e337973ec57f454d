"""What a CA remembers outside its database, so that an old copy of the database cannot pass for the present one.

In ``state/`` of the CA's directory lie the number of the database's epoch, the newest revocation list of each
issuing CA, and the log's newest checkpoint. They only ever go forward. `compare` is pure; `check_not_rolled_back`
and `keep_state` do the reading and writing around it.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography import x509

from ca_service.audit import Seen, open_checkpoint
from ca_service.audit.merkle import root_of
from ca_service.judgment import Unavailable, VtpmCaError
from ca_service.keys import PublicAuthority, files
from ca_service.keys.layout import RUN
from ca_service.operations.log_identity import log_key
from ca_service.profiles.scope import scope_of
from ca_service.store import ListKey, Store, Transaction
from vtpm.wire.encoding import Members, b64std, parse_json, unb64std
from vtpm.wire.errors import WireError

FOLDER = "state"
_FACTS = "kept.json"
_LOCK = "state.lock"
_VERSION = 1
_MAX_NUMBER = 2**31 - 1
_MAX_NOTE = 4096
_MAX_FACTS = 3 * _MAX_NOTE
_MOST_CHECKED = 4096
_MOST_NAMED = 3
_checked: dict[tuple[str, str, bytes], int] = {}
"""Shards of lists that were found in order, by the CA's URL, the issuer and the SHA-256 of the list."""
_SHARD = re.compile(r"(?:0|[1-9][0-9]{0,2})")


@dataclass(frozen=True)
class KeptState:
    """What is remembered, or what a database knows of the same.

    Attributes:
        epoch: number of the epoch; 0 if none was seen.
        crls: DER of the newest revocation lists by issuer (subject key id, hex) and shard.
        log_size: leaves of the log; 0 if none was seen.
        log_root: root hash of the tree of that size, hex.
        checkpoint: the signed note that says so; empty if none was seen.
    """

    epoch: int = 0
    crls: Mapping[ListKey, bytes] = field(default_factory=dict, repr=False)
    log_size: int = 0
    log_root: str = ""
    checkpoint: str = field(default="", repr=False)

    def numbers(self) -> dict[ListKey, int]:
        """The number of each revocation list."""
        return {key: crl_number(der) for key, der in self.crls.items()}


def crl_number(der: bytes) -> int:
    """The cRLNumber of a revocation list (RFC 5280, section 5.2.3); raises ValueError if it has none."""
    extensions = x509.load_der_x509_crl(der).extensions
    try:
        return extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        raise ValueError("the list has no number") from None


def shard_of(public: PublicAuthority, skid: str, crl: x509.CertificateRevocationList) -> int:
    """Which of an issuing CA's lists a revocation list is: the only one has number 0.

    Raises:
        ValueError: it says that it is published where this CA publishes none of its lists.
    """
    scope = scope_of(crl)
    if scope is None:
        return 0
    info = next(issuer.info for issuer in public.issuers if issuer.skid == skid)
    number = scope.removeprefix(info.list_url(0).removesuffix("0.crl")).removesuffix(".crl")
    if not _SHARD.fullmatch(number) or scope != info.list_url(int(number)):
        raise ValueError("the list is published where this CA has none")
    return int(number)


def compare(kept: KeptState, present: KeptState) -> list[str]:
    """In what the present database is behind what is remembered; empty if in nothing.

    A restore begins a new epoch, and its log may be shorter. Its epoch is higher then, and the log is not compared.
    """
    behind = []
    if present.epoch < kept.epoch:
        behind.append(f"its epoch is {present.epoch}, {kept.epoch} was seen")
    numbers = present.numbers()
    for key, number in sorted(kept.numbers().items()):
        what = "its list of {}".format("/".join(str(part) for part in key))
        if numbers.get(key, 0) < number:
            behind.append(f"{what} is number {numbers.get(key, 0)}, {number} was published")
        elif numbers[key] == number and present.crls[key] != kept.crls[key]:
            # Each may revoke what the other one does not.
            behind.append(f"{what} with number {number} is another than the one that was published")
    if present.epoch == kept.epoch:
        if present.log_size < kept.log_size:
            behind.append(f"its log has {present.log_size} leaves, {kept.log_size} were seen")
        elif present.log_size == kept.log_size > 0 and present.log_root != kept.log_root:
            behind.append(f"its log of {kept.log_size} leaves is another than the one that was seen")
    return behind


def state_of(tx: Transaction, public: PublicAuthority) -> KeptState:
    """The same facts as a database has them; raises `Unavailable` if its log is damaged."""
    epoch, head = tx.epochs.current(), tx.log.head()
    lists = tx.crls.newest([issuer.skid for issuer in public.issuers])
    crls = {key: row.der for key, row in lists.items()}
    number = 0 if epoch is None else epoch.number
    if head is None or not head.checkpoint:
        return KeptState(number, crls)
    try:
        size, root = _read_note(head.checkpoint, public)
    except WireError:
        raise Unavailable(
            "the newest checkpoint in the database is none of this CA's log",
            code="log",
            remedy="If this is the database of another CA, name the right one: `serve --database`, or "
            "VTPM_CA_DATABASE. Else it is damaged: bring it back from a backup with `vtpm-ca db restore`.",
        ) from None
    return KeptState(number, crls, size, root, head.checkpoint)


def read_state(public: PublicAuthority) -> KeptState:
    """What the CA's directory remembers; nothing in the directory of a CA that no release with a memory has opened.

    Raises:
        Unavailable: it is there and cannot be read (code ``kept-state``).
    """
    folder = public.directory / FOLDER
    if not folder.exists() and not public.state_kept:
        return KeptState()
    try:
        members = Members(parse_json((folder / _FACTS).read_bytes(), "kept", most=_MAX_FACTS), "kept")
        members.integer("v", _VERSION, _VERSION)
        epoch = members.integer("epoch", 0, _MAX_NUMBER)
        note = unb64std(members.text("checkpoint", least=0, most=2 * _MAX_NOTE), "checkpoint").decode("utf-8")
        members.end()
        crls = {_key_of(path): path.read_bytes() for path in folder.glob("crl-*.der")}
        for (skid, shard), der in crls.items():
            if _checked_shard(public, skid, der) != shard:
                raise ValueError("a list lies in the place of another")  # noqa: TRY301 - the remedy is the same
        size, root = _read_note(note, public) if note else (0, "")
    except (OSError, WireError, ValueError, VtpmCaError):
        raise Unavailable(
            f"what the CA remembers in {folder} cannot be read",
            code="kept-state",
            remedy="Bring the folder back from a copy of the CA's directory: without it an old database could pass.",
        ) from None
    return KeptState(epoch, crls, size, root, note)


def check_crl(public: PublicAuthority, skid: str, der: bytes) -> x509.CertificateRevocationList:
    """Read a revocation list and check that this issuing CA has signed it; raises ValueError."""
    crl = x509.load_der_x509_crl(der)
    key = next((issuer.certificate.public_key() for issuer in public.issuers if issuer.skid == skid), None)
    if key is None or not crl.is_signature_valid(key):  # type: ignore[arg-type] # an issuer's key is one that signs
        raise ValueError("no issuing CA of this CA has signed the list")
    crl_number(der)
    return crl


def _checked_shard(public: PublicAuthority, skid: str, der: bytes) -> int:
    """As `check_crl` and `shard_of`. There are many lists, and what is remembered is read every few seconds."""
    key = public.publication_url, skid, hashlib.sha256(der).digest()
    shard = _checked.get(key)
    if shard is None:
        shard = shard_of(public, skid, check_crl(public, skid, der))
        if len(_checked) >= _MOST_CHECKED:
            _checked.clear()
        _checked[key] = shard
    return shard


def _behind(tx: Transaction, kept: KeptState, present: KeptState) -> list[str]:
    """As `compare`; and the longer log must be the one that was seen, with more behind it."""
    behind = compare(kept, present)
    if not behind and present.epoch == kept.epoch and 0 < kept.log_size < present.log_size:
        recipe = root_of(kept.log_size)
        try:
            (root,) = recipe.path(tx.log.nodes(recipe.places()))
        except KeyError:
            root = b""
        if root.hex() != kept.log_root:
            behind.append(f"its log goes on from others than the {kept.log_size} leaves that were seen")
    return behind


def check_not_rolled_back(public: PublicAuthority, store: Store) -> None:
    """Refuse a database that is older than what the CA remembers; call it whenever one is opened.

    Raises:
        Unavailable: it is (code ``rolled-back``), or one of the two cannot be read.
    """
    kept = read_state(public)
    with store.read() as tx:
        behind = _behind(tx, kept, state_of(tx, public))
    if behind:
        raise _rolled_back(behind)


def _rolled_back(behind: Sequence[str]) -> Unavailable:
    # A CA has a hundred lists and more, and one old copy is behind in each.
    rest = f"; and {len(behind) - _MOST_NAMED} more" if len(behind) > _MOST_NAMED else ""
    return Unavailable(
        "the database is older than what this CA has done: " + "; ".join(behind[:_MOST_NAMED]) + rest,
        code="rolled-back",
        remedy="If the CA has moved to another one, name that: `serve --database`, or VTPM_CA_DATABASE. Bring old "
        "copies back with `vtpm-ca db restore` only: it keeps revoked what is revoked.",
    )


def keep_state(public: PublicAuthority, store: Store) -> KeptState:
    """Remember where the database stands; call it at start, after each publication, regularly, and at the end.

    Raises:
        Unavailable: the database is older than what is remembered, or something cannot be read or written.
    """
    # What is newest must not be overwritten by what another process has read before it.
    with files.locked(public.directory / RUN / _LOCK):
        kept = read_state(public)
        with store.read() as tx:
            present = state_of(tx, public)
            behind = _behind(tx, kept, present)
        if behind:
            raise _rolled_back(behind)
        write_state(public, kept, present)
    return present


def keep_seen(public: PublicAuthority, seen: Seen) -> None:
    """Remember how far a process has seen the log come, now that its database turns out to be an older one.

    The next start, and the other processes, then refuse that database too. Raises as `keep_state`.
    """
    with files.locked(public.directory / RUN / _LOCK):
        kept = read_state(public)
        if (seen.epoch, seen.size) > (kept.epoch, kept.log_size):
            further = replace(
                kept,
                epoch=seen.epoch,
                log_size=seen.size,
                log_root=seen.root.hex(),
                checkpoint=seen.checkpoint,
            )
            write_state(public, kept, further)


def write_state(public: PublicAuthority, kept: KeptState, present: KeptState) -> None:
    """Replace what is remembered, each file whole or not at all; the revocation lists first, the facts last.

    The first time the folder comes with all its files or not at all: one without facts has been tampered with.
    """
    folder = public.directory / FOLDER
    record = {"v": _VERSION, "epoch": present.epoch, "checkpoint": b64std(present.checkpoint.encode())}
    facts = json.dumps(record).encode("ascii")
    try:
        if not folder.exists():
            lists = {_name_of(key): der for key, der in present.crls.items()}
            files.write_directory(folder, {**lists, _FACTS: facts})
            return
        for key, der in present.crls.items():
            if kept.crls.get(key) != der:
                files.replace_file(folder / _name_of(key), der, files.PRIVATE_FILE)
        if (kept.epoch, kept.checkpoint) != (present.epoch, present.checkpoint) or not (
            folder / _FACTS
        ).exists():
            files.replace_file(folder / _FACTS, facts, files.PRIVATE_FILE)
    except OSError as error:
        raise Unavailable(
            f"what the CA remembers cannot be written: {error.strerror}", code="kept-state"
        ) from None


def _name_of(key: ListKey) -> str:
    """The first list of an issuing CA has the name that earlier releases gave the only one."""
    skid, shard = key
    return f"crl-{skid}-{shard}.der" if shard else f"crl-{skid}.der"


def _key_of(path: Path) -> ListKey:
    skid, _, number = path.stem.removeprefix("crl-").partition("-")
    key = skid, int(number or 0)
    if _name_of(key) != path.name:
        raise ValueError("a file in the folder has another name than it got")
    return key


def _read_note(note: str, public: PublicAuthority) -> tuple[int, str]:
    checkpoint = open_checkpoint(note.encode("utf-8"), log_key(public))
    return checkpoint.size, checkpoint.root.hex()
