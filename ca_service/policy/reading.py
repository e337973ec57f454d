"""From a document's tables to entries; every complaint names the place and the entry."""

from collections.abc import Iterable, Mapping

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from ca_service.policy import document
from ca_service.policy.brokers import EarDemand, KbsEntry
from ca_service.policy.form import problem
from ca_service.policy.resources import Pattern, overlaps, parse_pattern
from vtpm.wire.errors import WireError
from vtpm.wire.jwk import EcJwk
from vtpm.wire.templates import Role, templates

_CURVES = ("P-256", "P-384")
_EAR_CURVES = ("P-256",)
_CURVE_NAMES = {"P-256": "secp256r1", "P-384": "secp384r1"}


class Reader:
    """What reading any part of a document needs: refusing at a place, lists without doubles."""

    def __init__(self, content: Mapping[str, object]) -> None:
        self.content = content

    def refuse(self, detail: str, *path: int | str) -> Exception:
        """The error about a place."""
        return problem(self.content, path, detail)

    def unique(self, values: Iterable[str], *path: int | str, member: str = "") -> frozenset[str]:
        """The values as a set; refused where one stands twice."""
        seen: set[str] = set()
        for i, value in enumerate(values):
            if value in seen:
                at = (*path, i, member) if member else (*path, i)
                raise self.refuse("stands twice", *at)
            seen.add(value)
        return frozenset(seen)


class BrokerReader(Reader):
    """Reads `[[kbs]]`."""

    def _key(self, table: document.KeyTable, curves: tuple[str, ...], *path: int | str) -> EcJwk:
        try:
            if table.jwk is not None:
                return EcJwk.parse(table.jwk, "", curves=curves)
            key = load_pem_public_key((table.pem or "").encode())
        except WireError as error:
            member = (error.path,) if error.path else ()
            raise self.refuse(error.problem, *path, "jwk", *member) from None
        except (ValueError, UnsupportedAlgorithm):
            raise self.refuse("is no public key in PEM", *path, "pem") from None
        names = [_CURVE_NAMES[curve] for curve in curves]
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in names:
            raise self.refuse(f"must be a key on {' or '.join(curves)}", *path, "pem")
        return EcJwk.from_key(key)

    def _resources(self, tables: list[document.ResourceTable], *path: int | str) -> dict[Pattern, bool]:
        patterns: list[Pattern] = []
        for i, table in enumerate(tables):
            try:
                patterns.append(parse_pattern(table.pattern, ""))
            except WireError as error:
                raise self.refuse(error.problem, *path, i, "pattern") from None
        for earlier, later in overlaps(patterns):
            raise self.refuse(f"overlaps the pattern at position {earlier}", *path, later, "pattern")
        return {pattern: table.shared for pattern, table in zip(patterns, tables, strict=True)}

    def _ear(self, table: document.EarTable | None, *path: int | str) -> EarDemand | None:
        if table is None:
            return None
        keys = [self._key(key, _EAR_CURVES, *path, "key", k) for k, key in enumerate(table.key)]
        self.unique((key.thumbprint() for key in keys), *path, "key")
        return EarDemand(tuple(keys), table.max_age_s)

    def read(self, tables: list[document.KbsTable]) -> dict[str, KbsEntry]:
        """The entries by thumbprint of each of their keys.

        Raises:
            BadRequest: an id or a key stands twice, a key is none, or patterns overlap.
        """
        self.unique((table.id for table in tables), "kbs", member="id")
        entries: dict[str, KbsEntry] = {}
        for i, table in enumerate(tables):
            keys = [self._key(key, _CURVES, "kbs", i, "key", k) for k, key in enumerate(table.key)]
            thumbprints = [key.thumbprint() for key in keys]
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
                resources=self._resources(table.resource, "kbs", i, "resource"),
                ear=self._ear(table.ear, "kbs", i, "ear"),
                label=table.label or "",
                pair=table.pair or "",
            )
            for k, thumbprint in enumerate(thumbprints):
                if thumbprint in entries:
                    owner = entries[thumbprint].id
                    raise self.refuse(f'the key is listed already, under "{owner}"', "kbs", i, "key", k)
                entries[thumbprint] = entry
        return entries


class TemplateReader(Reader):
    """Reads `[tpm]`."""

    def read(self, table: document.TpmTable | None) -> dict[Role, frozenset[str]]:
        """Allowed template ids by role.

        Raises:
            BadRequest: there is no such template, or one stands twice.
        """
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
