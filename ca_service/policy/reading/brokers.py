"""From `[[kbs]]` to entries behind the thumbprints of their keys."""

from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from ca_service.policy.document.kbs import EarTable, KbsTable, KeyTable, ResourceTable
from ca_service.policy.entries.brokers import EarDemand, KbsEntry
from ca_service.policy.entries.resources import Pattern, overlaps, parse_pattern
from ca_service.policy.reading.questions import OpenQuestions
from vtpm.wire.errors import WireError
from vtpm.wire.jwk import EcJwk

KBS_MEMBERS: Mapping[str, str] = {"release-policy": "release_policies"}
"""Constraint, and the member that states it."""

_CURVES: Final = ("P-256", "P-384")
_EAR_CURVES: Final = ("P-256",)
_CURVE_NAMES: Final = {"P-256": "secp256r1", "P-384": "secp384r1"}
_PEM_BEGIN: Final = "-----BEGIN "


class BrokerReader(OpenQuestions):
    """Reads `[[kbs]]`."""

    def read(self, tables: list[KbsTable]) -> dict[str, KbsEntry]:
        """The entries by thumbprint of each of their keys.

        Raises:
            BadRequest: an id or a key stands twice, a key is none, patterns overlap, or a constraint is stated and
                given up at once.
        """
        self.unique((table.id for table in tables), "kbs", member="id")
        entries: dict[str, KbsEntry] = {}
        for i, table in enumerate(tables):
            entry = self._entry(table, i)
            for k, thumbprint in enumerate(entry.thumbprints):
                if thumbprint in entries:
                    owner = entries[thumbprint].id
                    raise self.refuse(f'the key is listed already, under "{owner}"', "kbs", i, "key", k)
                entries[thumbprint] = entry
        return entries

    def _entry(self, table: KbsTable, i: int) -> KbsEntry:
        given_up = self.unique(table.unconstrained, "kbs", i, "unconstrained")
        for constraint, member in KBS_MEMBERS.items():
            # Releases before 0.5 took silence for "any": what they put in force must go on judging like that.
            stated = getattr(table, member) is not None
            self.weigh(
                f"kbs.{constraint}", table.unconstrained, ("kbs", i), member, stated=stated, denies=False
            )
        keys = [self._key(key, _CURVES, "kbs", i, "key", k) for k, key in enumerate(table.key)]
        return KbsEntry(
            id=table.id,
            status=table.status,
            compromised_since=table.compromised_since,
            origins=self.unique(table.origins, "kbs", i, "origins"),
            release_policies=None
            if table.release_policies is None
            else self.unique(table.release_policies, "kbs", i, "release_policies"),
            valid_from=table.valid_from,
            valid_to=table.valid_to,
            thumbprints=tuple(key.thumbprint() for key in keys),
            resources=self._resources(table.resource, "kbs", i, "resource"),
            ear=self._ear(table.ear, "kbs", i, "ear"),
            label=table.label or "",
            pair=table.pair or "",
            tenant=table.tenant or "",
            grant_max_age=table.grant_max_age_s,
            unconstrained=given_up,
        )

    def _key(self, table: KeyTable, curves: tuple[str, ...], *path: int | str) -> EcJwk:
        pem = table.pem or ""
        try:
            if table.jwk is not None:
                return EcJwk.parse(table.jwk, "", curves=curves)
            key = load_pem_public_key(pem.encode())
        except WireError as error:
            member = (error.path,) if error.path else ()
            raise self.refuse(error.problem, *path, "jwk", *member) from None
        except (ValueError, UnsupportedAlgorithm):
            raise self.refuse("is no public key in PEM", *path, "pem") from None
        names = [_CURVE_NAMES[curve] for curve in curves]
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in names:
            raise self.refuse(f"must be a key on {' or '.join(curves)}", *path, "pem")
        if pem.count(_PEM_BEGIN) > 1:
            self.object_to("holds more than one block, and only the first is looked at", *path, "pem")
        return EcJwk.from_key(key)

    def _resources(self, tables: list[ResourceTable], *path: int | str) -> dict[Pattern, bool]:
        patterns: list[Pattern] = []
        for i, table in enumerate(tables):
            try:
                patterns.append(parse_pattern(table.pattern, ""))
            except WireError as error:
                raise self.refuse(error.problem, *path, i, "pattern") from None
        for earlier, later in overlaps(patterns):
            raise self.refuse(f"overlaps the pattern at position {earlier}", *path, later, "pattern")
        return {pattern: table.shared for pattern, table in zip(patterns, tables, strict=True)}

    def _ear(self, table: EarTable | None, *path: int | str) -> EarDemand | None:
        if table is None:
            return None
        keys = [self._key(key, _EAR_CURVES, *path, "key", k) for k, key in enumerate(table.key)]
        self.unique((key.thumbprint() for key in keys), *path, "key")
        return EarDemand(tuple(keys), table.max_age_s)
