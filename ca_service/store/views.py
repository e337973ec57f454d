"""What a decision reads, in as few statements as it takes: a round trip costs more than what it brings."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.repository import Repository
from ca_service.store.rows import CertificateRow, CertificateState, IssuerState, TpmRow
from ca_service.store.statements import Statement

MOST_KEYS = 6
"""Keys of a TPM: one to four EKs, IAK and IDevID."""

_NOBODY = ""
"""Fills the places of keys that a TPM does not have: no row has an empty Name, digest or live key."""

_LOOK = Statement(
    sa.text(
        """
        SELECT 'policy' AS kind, CAST(max(version) AS VARCHAR) AS a, '' AS b, '' AS c FROM policies
        UNION ALL SELECT 'epoch', CAST(max(number) AS VARCHAR), '', '' FROM epochs
        UNION ALL SELECT 'signs', active, skid, '' FROM issuers WHERE active IS NOT NULL
        UNION ALL SELECT 'given-up', skid, '', '' FROM issuers WHERE state IN (:tainted, :retired)
        UNION ALL SELECT 'tenant', CAST(i.id AS VARCHAR), CAST(t.id AS VARCHAR), ''
            FROM instances i LEFT JOIN tpms t ON t.occupies = i.id
            WHERE i.kbs_id = :kbs_id AND i.resource = :resource AND i.salt = :salt
        UNION ALL SELECT 'key', name, CAST(instance_id AS VARCHAR), ''
            FROM tpm_keys WHERE name IN (:name0, :name1, :name2, :name3, :name4, :name5)
        UNION ALL SELECT 'key-id', key_id, kbs_id, resource FROM key_ids WHERE key_id = :key_id
        UNION ALL SELECT 'blocked', spki, '', ''
            FROM blocked_keys WHERE spki IN (:spki0, :spki1, :spki2, :spki3, :spki4, :spki5)
        UNION ALL SELECT 'live', live, serial, state
            FROM certificates WHERE live IN (:live0, :live1, :live2, :live3, :live4, :live5)
        """
    )
)
_STATES = {"tainted": IssuerState.TAINTED.value, "retired": IssuerState.RETIRED.value}

_CERTIFICATES = schema.certificates.c
_LIVE = Statement(
    sa.select(schema.certificates).where(
        _CERTIFICATES.live.in_([sa.bindparam(f"live{i}") for i in range(MOST_KEYS)])
    )
)
_REVOKED = Statement(
    sa.select(_CERTIFICATES.serial).where(
        _CERTIFICATES.tpm_id == sa.bindparam("tpm_id"), _CERTIFICATES.state == CertificateState.REVOKED.value
    )
)
_SPOILT = Statement(
    sa.text(
        """
        SELECT 'revoked' AS why FROM certificates WHERE tpm_id = :tpm_id AND state = :revoked
        UNION ALL SELECT 'blocked' FROM blocked_keys WHERE spki IN (:spki0, :spki1, :spki2, :spki3, :spki4, :spki5)
        """
    )
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
class LedgerQuery:
    """What is asked about a TPM: its instance, and by which names its keys are known.

    Attributes:
        kbs_id: of the instance.
        resource: of the instance.
        salt: of the instance.
        key_id: id of the persistence key.
        names: TPM Names of the keys, at most `MOST_KEYS`.
        spkis: their names in the block list, see `spki_digest`.
        lives: their `live_key` values.
    """

    kbs_id: str = ""
    resource: str = ""
    salt: str = ""
    key_id: str = ""
    names: tuple[str, ...] = ()
    spkis: tuple[str, ...] = ()
    lives: tuple[str, ...] = ()

    def values(self) -> dict[str, str]:
        """The statement's values."""
        return {
            **_STATES,
            "kbs_id": self.kbs_id,
            "resource": self.resource,
            "salt": self.salt,
            "key_id": self.key_id,
            **_places("name", self.names),
            **_places("spki", self.spkis),
            **_places("live", self.lives),
        }


def _places(kind: str, given: tuple[str, ...]) -> dict[str, str]:
    if len(given) > MOST_KEYS:
        raise ValueError(f"a TPM has at most {MOST_KEYS} keys")
    return {f"{kind}{i}": given[i] if i < len(given) else _NOBODY for i in range(MOST_KEYS)}


@dataclass(frozen=True)
class LedgerView:
    """The answer.

    Attributes:
        instance_id: number of the instance; None if it is new.
        occupant: the TPM that lives there.
        key_instances: the instance that each known Name is bound to.
        key_id_owner: (KBS id, resource) that the persistence key is bound to.
        blocked: the digests that are on the block list.
        live: the live certificates, intended or issued, by `live_key`.
        revoked: serials of the occupant's revoked certificates.
    """

    instance_id: int | None
    occupant: TpmRow | None
    key_instances: Mapping[str, int]
    key_id_owner: tuple[str, str] | None
    blocked: frozenset[str]
    live: Mapping[str, CertificateRow]
    revoked: tuple[str, ...]


class Views(Repository):
    """The reads of an enrolment."""

    enums: ClassVar[Mapping[str, Any]] = {"state": CertificateState}

    def standing(self) -> Standing:
        """What is in force now."""
        return self.look(LedgerQuery())[0]

    def look(self, query: LedgerQuery) -> tuple[Standing, LedgerView]:
        """What is in force, and what is known about a TPM: one statement, and a few more for one that is known."""
        found: dict[str, list[tuple[str, str, str]]] = {}
        for kind, a, b, c in self._session.rows(_LOOK, query.values())[1]:
            found.setdefault(kind, []).append((a, b, c))
        standing = Standing(
            policy_version=_number(found["policy"]),
            epoch=_number(found["epoch"]),
            issuers={active: skid for active, skid, _ in found.get("signs", ())},
            given_up=frozenset(skid for skid, _, _ in found.get("given-up", ())),
        )
        instance, tpm = next(((int(a), b) for a, b, _ in found.get("tenant", ())), (None, None))
        view = LedgerView(
            instance_id=instance,
            occupant=None if tpm is None else self._get(TpmRow, schema.tpms, id=int(tpm)),
            key_instances={name: int(number) for name, number, _ in found.get("key", ())},
            key_id_owner=next(((b, c) for _, b, c in found.get("key-id", ())), None),
            blocked=frozenset(spki for spki, _, _ in found.get("blocked", ())),
            live=self._live(tuple(live for live, _, _ in found["live"])) if "live" in found else {},
            revoked=() if tpm is None else self._revoked(int(tpm)),
        )
        return standing, view

    def spoilt(self, tpm_id: int, spkis: tuple[str, ...]) -> bool:
        """Whether a certificate of the TPM is revoked or a key of it blocked, each by its `spki_digest`."""
        values = {"tpm_id": tpm_id, "revoked": CertificateState.REVOKED.value, **_places("spki", spkis)}
        return self._session.first(_SPOILT, values) is not None

    def _live(self, keys: tuple[str, ...]) -> dict[str, CertificateRow]:
        rows = self._all(CertificateRow, _LIVE, _places("live", keys))
        return {row.live: row for row in rows if row.live is not None}

    def _revoked(self, tpm_id: int) -> tuple[str, ...]:
        return tuple(serial for (serial,) in self._session.rows(_REVOKED, {"tpm_id": tpm_id})[1])


def _number(rows: Iterable[tuple[str | None, str, str]]) -> int:
    """The one number in a row; 0 for the maximum of an empty table."""
    return next((int(a) for a, _, _ in rows if a is not None), 0)
