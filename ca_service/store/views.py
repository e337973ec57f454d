"""What a decision reads, in as few statements as it takes: a round trip costs more than what it brings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.repository import Repository
from ca_service.store.rows import CertificateRow, CertificateState, IssuerState, TpmRow

_POLICIES, _EPOCHS, _ISSUERS = schema.policies.c, schema.epochs.c, schema.issuers.c
_INSTANCES, _TPMS = schema.instances.c, schema.tpms.c
_CERTIFICATES = schema.certificates.c

_STANDING = sa.union_all(
    sa.select(
        sa.literal("policy").label("kind"), sa.cast(sa.func.max(_POLICIES.version), sa.String).label("value")
    ),
    sa.select(sa.literal("epoch"), sa.cast(sa.func.max(_EPOCHS.number), sa.String)),
    sa.select(_ISSUERS.active, _ISSUERS.skid).where(_ISSUERS.active.is_not(None)),
    sa.select(sa.literal("given-up"), _ISSUERS.skid).where(
        _ISSUERS.state.in_([IssuerState.TAINTED.value, IssuerState.RETIRED.value])
    ),
)

_TENANT = (
    sa.select(_INSTANCES.id.label("instance"), schema.tpms)
    .select_from(schema.instances.outerjoin(schema.tpms, _TPMS.occupies == _INSTANCES.id))
    .where(
        _INSTANCES.kbs_id == sa.bindparam("kbs_id"),
        _INSTANCES.resource == sa.bindparam("resource"),
        _INSTANCES.salt == sa.bindparam("salt"),
    )
)

_BINDINGS = sa.union_all(
    sa.select(
        sa.literal("key").label("kind"),
        schema.tpm_keys.c.name.label("subject"),
        sa.cast(schema.tpm_keys.c.instance_id, sa.String).label("first"),
        sa.literal("").label("second"),
    ).where(schema.tpm_keys.c.name.in_(sa.bindparam("names", expanding=True))),
    sa.select(
        sa.literal("key-id"), schema.key_ids.c.key_id, schema.key_ids.c.kbs_id, schema.key_ids.c.resource
    ).where(schema.key_ids.c.key_id == sa.bindparam("key_id")),
    sa.select(sa.literal("blocked"), schema.blocked_keys.c.spki, sa.literal(""), sa.literal("")).where(
        schema.blocked_keys.c.spki.in_(sa.bindparam("spkis", expanding=True))
    ),
)

_LIVE = sa.select(schema.certificates).where(_CERTIFICATES.live.in_(sa.bindparam("lives", expanding=True)))
_REVOKED = sa.select(_CERTIFICATES.serial).where(
    _CERTIFICATES.tpm_id == sa.bindparam("tpm_id"), _CERTIFICATES.state == CertificateState.REVOKED.value
)


@dataclass(frozen=True)
class Standing:
    """What is in force: the policy's version (0 for none), the epoch's number (0 for none), and who signs.

    `issuers` gives the subject key id (hex) of the active issuing CA by `active_key`; `given_up` are those whose
    certificates are to be replaced.
    """

    policy_version: int
    epoch: int
    issuers: Mapping[str, str]
    given_up: frozenset[str]


@dataclass(frozen=True)
class Bindings:
    """What is known about keys: the instance of each known Name, the owner of the persistence key, what is blocked."""

    key_instances: Mapping[str, int]
    key_id_owner: tuple[str, str] | None
    blocked: frozenset[str]


class Views(Repository):
    """The reads of an enrolment."""

    enums: ClassVar[Mapping[str, Any]] = {"state": CertificateState}

    def standing(self) -> Standing:
        """What is in force now."""
        rows = [(row.kind, row.value) for row in self._connection.execute(_STANDING)]
        given_up = frozenset(value for kind, value in rows if kind == "given-up")
        # An issuer's key has a colon, so it cannot be one of the words.
        found = {kind: value for kind, value in rows if kind != "given-up"}
        version, epoch = found.pop("policy"), found.pop("epoch")
        return Standing(int(version or 0), int(epoch or 0), found, given_up)

    def tenant(self, kbs_id: str, resource: str, salt: str) -> tuple[int | None, TpmRow | None]:
        """The instance's number and its live TPM, each None if there is none."""
        values = {"kbs_id": kbs_id, "resource": resource, "salt": salt}
        row = self._connection.execute(_TENANT, values).first()
        if row is None:
            return None, None
        return row.instance, None if row.id is None else self._value(TpmRow, row)

    def bindings(self, names: Sequence[str], key_id: str, spkis: Sequence[str]) -> Bindings:
        """What is known about these Names, this persistence key, and these keys' digests."""
        values = {"names": list(names), "key_id": key_id, "spkis": list(spkis)}
        instances: dict[str, int] = {}
        owner: tuple[str, str] | None = None
        blocked = set()
        for row in self._connection.execute(_BINDINGS, values):
            if row.kind == "key":
                instances[row.subject] = int(row.first)
            elif row.kind == "key-id":
                owner = (row.first, row.second)
            else:
                blocked.add(row.subject)
        return Bindings(instances, owner, frozenset(blocked))

    def live(self, keys: Sequence[str]) -> dict[str, CertificateRow]:
        """The intended or issued certificates among these `live_key` values."""
        rows = [
            self._value(CertificateRow, row) for row in self._connection.execute(_LIVE, {"lives": list(keys)})
        ]
        return {row.live: row for row in rows if row.live is not None}

    def revoked(self, tpm_id: int) -> tuple[str, ...]:
        """Serials of a TPM's revoked certificates."""
        return tuple(self._connection.execute(_REVOKED, {"tpm_id": tpm_id}).scalars())
