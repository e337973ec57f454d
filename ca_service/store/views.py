"""What a decision reads, in as few statements as it takes: a round trip costs more than what it brings."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache, lru_cache
from typing import Any, ClassVar

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.policies import AT, IN_FORCE
from ca_service.store.repository import Repository
from ca_service.store.rows import CertificateRow, CertificateState, IssuerState, TpmRow
from ca_service.store.statements import Statement
from vtpm.wire.frozen import frozen
from vtpm.wire.lazy import cached_property

MOST_KEYS = 6
"""Keys of a TPM: one to four EKs, IAK and IDevID."""

_NOBODY = ""
"""Fills the places of keys that a TPM does not have: no row has an empty Name, digest or live key."""

_GIVEN_UP = (IssuerState.TAINTED.value, IssuerState.RETIRED.value)


@cache
def _look(places: int) -> Statement:
    """Everything at once, about so many keys.

    A list of them that is joined costs SQLite much less than three that are searched with IN, for each of which it
    makes a table first.
    """
    keys = ", ".join(f"(:name{i}, :spki{i}, :live{i})" for i in range(places))
    return Statement(
        sa.text(
            f"""
            WITH k (name, spki, live) AS (VALUES {keys})
            SELECT 'in-force' AS kind, CAST(({IN_FORCE}) AS VARCHAR) AS a,
                CAST((SELECT max(number) FROM epochs) AS VARCHAR) AS b, '' AS c, '' AS d
            UNION ALL SELECT 'issuer', skid, state, active, '' FROM issuers
                WHERE active IS NOT NULL OR state = '{_GIVEN_UP[0]}' OR state = '{_GIVEN_UP[1]}'
            UNION ALL SELECT 'tenant', CAST(i.id AS VARCHAR), CAST(t.id AS VARCHAR), '', ''
                FROM instances i LEFT JOIN tpms t ON t.occupies = i.id
                WHERE i.kbs_id = :kbs_id AND i.resource = :resource AND i.salt = :salt
            UNION ALL SELECT 'key-id', kbs_id, resource, '', '' FROM key_ids WHERE key_id = :key_id
            UNION ALL SELECT 'key', t.name, CAST(t.instance_id AS VARCHAR), b.spki, c.live
                FROM k LEFT JOIN tpm_keys t ON t.name = k.name
                LEFT JOIN blocked_keys b ON b.spki = k.spki
                LEFT JOIN certificates c ON c.live = k.live
                WHERE t.name IS NOT NULL OR b.spki IS NOT NULL OR c.live IS NOT NULL
            """  # noqa: S608 - our own words
        ).bindparams(AT)
    )


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


@cache
def _spoilt(places: int) -> Statement:
    """Why the certificates of a TPM with so many keys must not leave the process."""
    this: sa.ColumnElement[int] = sa.literal_column("1")
    spki = schema.blocked_keys.c.spki
    revoked = sa.select(this).where(
        _CERTIFICATES.tpm_id == sa.bindparam("tpm_id"),
        _CERTIFICATES.state == schema.literally(CertificateState.REVOKED.value),
    )
    # Key by key: to search for a list of them, SQLite would make a table of it first.
    blocked = (sa.select(this).where(spki == sa.bindparam(f"spki{i}")) for i in range(places))
    return Statement(sa.union_all(revoked, *blocked))


@frozen
class Standing:
    """What is in force: the policy's version (0 for none), the epoch's number (0 for none), and who signs.

    `issuers` gives the subject key id (hex) of the active issuing CA by `active_key`; `given_up` are those whose
    certificates are to be replaced.
    """

    policy_version: int
    epoch: int
    issuers: Mapping[str, str]
    given_up: frozenset[str]


@frozen
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

    @cached_property
    def places(self) -> int:
        """How many keys are asked about at the most by any of their names, at least one."""
        return max(1, len(self.names), len(self.spkis), len(self.lives))

    @cached_property
    def values(self) -> Mapping[str, str]:
        """The statement's values: the same query is asked again before what it answered is acted upon."""
        return {
            "kbs_id": self.kbs_id,
            "resource": self.resource,
            "salt": self.salt,
            "key_id": self.key_id,
            **_places("name", self.names, self.places),
            **_places("spki", self.spkis, self.places),
            **_places("live", self.lives, self.places),
        }


def _places(kind: str, given: tuple[str, ...], count: int = MOST_KEYS) -> dict[str, str]:
    if max(len(given), count) > MOST_KEYS:
        raise ValueError(f"a TPM has at most {MOST_KEYS} keys")
    filled = given + (_NOBODY,) * (count - len(given))
    return {f"{kind}{i}": value for i, value in enumerate(filled)}


@frozen
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


_UNKNOWN = LedgerView(None, None, {}, None, frozenset(), {}, ())
"""About a TPM that nothing is known of."""

_GENERAL = ("in-force", "issuer")
"""The kinds of rows that are not about a TPM."""


@lru_cache(maxsize=16)
def _standing(rows: tuple[Sequence[Any], ...]) -> Standing:
    """What the general rows say, which is the same for nearly every TPM."""
    version, epoch = next((a, b) for kind, a, b, _, _ in rows if kind == "in-force")
    issuers = [(a, b, c) for kind, a, b, c, _ in rows if kind == "issuer"]
    return Standing(
        policy_version=int(version or 0),
        epoch=int(epoch or 0),
        issuers={active: skid for skid, _, active in issuers if active is not None},
        given_up=frozenset(skid for skid, state, _ in issuers if state in _GIVEN_UP),
    )


class Views(Repository):
    """The reads of an enrolment."""

    enums: ClassVar[Mapping[str, Any]] = {"state": CertificateState}

    def standing(self, at: datetime) -> Standing:
        """What is in force at `at`."""
        return self.look(LedgerQuery(), at)[0]

    def look(self, query: LedgerQuery, at: datetime) -> tuple[Standing, LedgerView]:
        """What is in force at `at`, and what is known about a TPM: one statement, a few more for one that is known."""
        rows = self._session.rows(_look(query.places), {**query.values, "at": at})[1]
        about = [row for row in rows if row[0] not in _GENERAL]
        if not about:
            return _standing(tuple(rows)), _UNKNOWN
        return _standing(tuple([row for row in rows if row[0] in _GENERAL])), self._about(about)

    def _about(self, rows: Sequence[Sequence[Any]]) -> LedgerView:
        """What the rows about a TPM say, with what else there is about one that is known."""
        instance = occupant = owner = None
        keys = list[tuple[str | None, ...]]()
        for kind, a, b, c, d in rows:
            match kind:
                case "tenant":
                    instance = int(a)
                    occupant = None if b is None else self._get(TpmRow, schema.tpms, id=int(b))
                case "key-id":
                    owner = (a, b)
                case "key":
                    keys.append((a, b, c, d))
        lives = tuple(live for _, _, _, live in keys if live is not None)
        return LedgerView(
            instance_id=instance,
            occupant=occupant,
            key_instances={name: int(number) for name, number, _, _ in keys if name and number},
            key_id_owner=owner,
            blocked=frozenset(spki for _, _, spki, _ in keys if spki is not None),
            live=self._live(lives) if lives else {},
            revoked=() if occupant is None else self._revoked(occupant.id),
        )

    def spoilt(self, tpm_id: int, spkis: tuple[str, ...]) -> bool:
        """Whether a certificate of the TPM is revoked or a key of it blocked, each by its `spki_digest`."""
        places = max(1, len(spkis))
        values = {"tpm_id": tpm_id, **_places("spki", spkis, places)}
        return self._session.first(_spoilt(places), values) is not None

    def _live(self, keys: tuple[str, ...]) -> dict[str, CertificateRow]:
        rows = self._all(CertificateRow, _LIVE, _places("live", keys))
        return {row.live: row for row in rows if row.live is not None}

    def _revoked(self, tpm_id: int) -> tuple[str, ...]:
        return tuple(serial for (serial,) in self._session.rows(_REVOKED, {"tpm_id": tpm_id})[1])
