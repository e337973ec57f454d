"""A policy ready to judge by: the document's entries as immutable values, behind indexes."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from ca_service.policy import document
from ca_service.policy.resources import Pattern, lookup, overlaps, parse_pattern
from vtpm.wire.encoding import canonical
from vtpm.wire.errors import WireError
from vtpm.wire.jwk import EcJwk
from vtpm.wire.templates import Role, templates

_CURVES = ("P-256", "P-384")
_CURVE_NAMES = ("secp256r1", "secp384r1")
_ANY_KBS = "UnsafeAllowAnyKbs"


@dataclass(frozen=True)
class KbsEntry:
    """A key broker service on the allow-list.

    Attributes:
        id: stays when the keys change; part of what an instance is called.
        status: "trusted", "suspended" or "compromised".
        compromised_since: from when on its key was not its own.
        origins: where secrets may come from: "kbs-generated", "provisioned".
        release_policies: digests of the release policies that a grant may name; None demands none.
        valid_from: first moment at which the entry counts; None: always has.
        valid_to: first moment at which it no longer counts; None: for good.
        thumbprints: RFC 7638 thumbprints of its keys.
        resources: what it may release, and whether that is shared; patterns do not overlap.
        label: for people.
    """

    id: str
    status: str
    compromised_since: datetime | None
    origins: frozenset[str]
    release_policies: frozenset[str] | None
    valid_from: datetime | None
    valid_to: datetime | None
    thumbprints: tuple[str, ...]
    resources: Mapping[Pattern, bool] = field(repr=False)
    label: str = ""

    def allows(self, resource: str) -> bool:
        """Whether `resource` falls under one of the patterns."""
        return lookup(self.resources, resource) is not None

    def shares(self, resource: str) -> bool:
        """Whether several instances may live under `resource`, told apart by their volumes' salts."""
        return lookup(self.resources, resource) is True


@dataclass(frozen=True)
class LaunchEntry:
    """An SVSM build on the allow-list: its name, launch measurement, capabilities and AMD products."""

    name: str
    measurement: bytes
    capabilities: frozenset[str]
    products: frozenset[str]
    label: str = ""


@dataclass(frozen=True)
class Policy:
    """A policy document, read and indexed.

    Attributes:
        text: the document as it was given.
        digest: SHA-256 over the canonical JSON (RFC 8785) of its content, in hex; comments and layout do not count.
        grant_max_age: in seconds; None if the document does not say, which denies.
        kbs: the KBS entries by thumbprint of each of their keys.
        launches: the launch entries by measurement.
        templates: allowed template ids by role.
        store_formats: allowed store formats.
        unsafe: names of the permissive entries, and in the operator's words what each gives up.
    """

    text: str = field(repr=False)
    digest: str
    grant_max_age: int | None
    kbs: Mapping[str, KbsEntry] = field(repr=False)
    launches: Mapping[bytes, LaunchEntry] = field(repr=False)
    templates: Mapping[Role, frozenset[str]]
    store_formats: frozenset[str]
    unsafe: Mapping[str, str]

    def warnings(self) -> list[str]:
        """What is legal here and still wants a second look, one sentence each."""
        found = []
        for entry in {entry.id: entry for entry in self.kbs.values()}.values():
            if True in entry.resources.values():
                found.append(
                    f"kbs {entry.id} has shared resources: a host that resets a TPM there goes unnoticed"
                )
            if "provisioned" in entry.origins:
                found.append(f"kbs {entry.id} may release provisioned keys, which whoever stored them knows")
            if entry.release_policies is None:
                found.append(
                    f"kbs {entry.id} lists no release_policies: its operator may release keys to anybody"
                )
        return found


class _Reader:
    """Turns a document into entries; every complaint names the place and the entry."""

    def __init__(self, content: Mapping[str, object]) -> None:
        self._content = content

    def refuse(self, detail: str, *path: int | str) -> Exception:
        return document.problem(self._content, path, detail)

    def unique(self, values: Iterable[str], *path: int | str, member: str = "") -> frozenset[str]:
        seen: set[str] = set()
        for i, value in enumerate(values):
            if value in seen:
                at = (*path, i, member) if member else (*path, i)
                raise self.refuse("stands twice", *at)
            seen.add(value)
        return frozenset(seen)

    def key(self, table: document.KeyTable, *path: int | str) -> str:
        """The thumbprint of a key."""
        try:
            if table.jwk is not None:
                return EcJwk.parse(table.jwk, "", curves=_CURVES).thumbprint()
            key = load_pem_public_key((table.pem or "").encode())
        except WireError as error:
            member = (error.path,) if error.path else ()
            raise self.refuse(error.problem, *path, "jwk", *member) from None
        except (ValueError, UnsupportedAlgorithm):
            raise self.refuse("is no public key in PEM", *path, "pem") from None
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVE_NAMES:
            raise self.refuse("must be a key on P-256 or P-384", *path, "pem")
        return EcJwk.from_key(key).thumbprint()

    def resources(self, tables: list[document.ResourceTable], *path: int | str) -> dict[Pattern, bool]:
        patterns: list[Pattern] = []
        for i, table in enumerate(tables):
            try:
                patterns.append(parse_pattern(table.pattern, ""))
            except WireError as error:
                raise self.refuse(error.problem, *path, i, "pattern") from None
        for earlier, later in overlaps(patterns):
            raise self.refuse(f"overlaps the pattern at position {earlier}", *path, later, "pattern")
        return {pattern: table.shared for pattern, table in zip(patterns, tables, strict=True)}

    def kbs(self, tables: list[document.KbsTable]) -> dict[str, KbsEntry]:
        self.unique((table.id for table in tables), "kbs", member="id")
        entries: dict[str, KbsEntry] = {}
        for i, table in enumerate(tables):
            thumbprints = [self.key(key, "kbs", i, "key", k) for k, key in enumerate(table.key)]
            entry = KbsEntry(
                id=table.id,
                status=table.status,
                compromised_since=table.compromised_since,
                origins=self.unique(table.origins, "kbs", i, "origins"),
                release_policies=None
                if table.release_policies is None
                else self.unique(table.release_policies, "kbs", i, "release_policies"),
                valid_from=table.valid_from,
                valid_to=table.valid_to,
                thumbprints=tuple(thumbprints),
                resources=self.resources(table.resource, "kbs", i, "resource"),
                label=table.label or "",
            )
            for k, thumbprint in enumerate(thumbprints):
                if thumbprint in entries:
                    owner = entries[thumbprint].id
                    raise self.refuse(f'the key is listed already, under "{owner}"', "kbs", i, "key", k)
                entries[thumbprint] = entry
        return entries

    def launches(self, tables: list[document.LaunchTable]) -> dict[bytes, LaunchEntry]:
        self.unique((table.name for table in tables), "launch", member="name")
        self.unique((table.measurement for table in tables), "launch", member="measurement")
        return {
            bytes.fromhex(table.measurement): LaunchEntry(
                table.name,
                bytes.fromhex(table.measurement),
                self.unique(table.capabilities, "launch", i, "capabilities"),
                self.unique(table.products, "launch", i, "products"),
                table.label or "",
            )
            for i, table in enumerate(tables)
        }

    def templates(self, table: document.TpmTable | None) -> dict[Role, frozenset[str]]:
        if table is None:
            return {}
        allowed: dict[Role, frozenset[str]] = {}
        for role, ids in ((Role.EK, table.ek), (Role.IAK, table.iak), (Role.IDEVID, table.idevid)):
            known = [template.id for template in templates(role)]
            for i, template_id in enumerate(ids):
                if template_id not in known:
                    raise self.refuse("must be one of " + ", ".join(known), "tpm", role.value, i)
            allowed[role] = self.unique(ids, "tpm", role.value)
        return allowed

    def unsafe(self, tables: list[document.UnsafeTable]) -> dict[str, str]:
        self.unique((table.name for table in tables), "unsafe", member="name")
        return {table.name: table.gives_up for table in tables}


def load(text: str) -> Policy:
    """Read and index a policy document.

    Whether a CA may put it in force is another question: a production CA takes none with `Policy.unsafe` entries.

    Raises:
        BadRequest: the document is no TOML (line and column), or says what cannot be meant: unknown members, empty
            lists, keys, measurements or names listed twice, overlapping patterns (path and entry).
    """
    table, content = document.read(text)
    reader = _Reader(content)
    return Policy(
        text=text,
        digest=hashlib.sha256(canonical(document.plain(content))).hexdigest(),
        grant_max_age=None if table.grant is None else table.grant.max_age_s,
        kbs=reader.kbs(table.kbs),
        launches=reader.launches(table.launch),
        templates=reader.templates(table.tpm),
        store_formats=frozenset()
        if table.store is None
        else reader.unique(table.store.formats, "store", "formats"),
        unsafe=reader.unsafe(table.unsafe),
    )


def kbs_for(policy: Policy, thumbprint: str) -> KbsEntry | None:
    """The KBS that a key belongs to; None if the policy lists no such key.

    Under a policy that admits any KBS on purpose, a key that nobody listed is a KBS of its own: instances need a
    name, and this one can never be that of a listed KBS.
    """
    listed = policy.kbs.get(thumbprint)
    if listed is None and _ANY_KBS in policy.unsafe:
        return KbsEntry(
            id=f"unlisted:{thumbprint}",
            status="unlisted",
            compromised_since=None,
            origins=frozenset(),
            release_policies=None,
            valid_from=None,
            valid_to=None,
            thumbprints=(thumbprint,),
            resources={},
        )
    return listed
