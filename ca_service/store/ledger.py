"""The ledger: which TPM lives in which instance, and what each of them brought along."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.counters import precedes
from ca_service.store.repository import Repository
from ca_service.store.rows import CertificateState, InstanceRow, TpmRow, TpmState
from ca_service.store.statements import Statement

_LAST_COUNTER = Statement(
    sa.select(schema.tpms.c.counter).where(schema.tpms.c.id == sa.bindparam("id")).with_for_update()
)

# A TPM whose issuance was given up before anything was issued is freed too, by no operator.
_RESET_AT = Statement(
    sa.select(sa.func.max(schema.tpms.c.freed_at, type_=schema.Instant)).where(
        schema.tpms.c.instance_id == sa.bindparam("instance_id"),
        sa.exists().where(
            schema.certificates.c.tpm_id == schema.tpms.c.id,
            schema.certificates.c.state != CertificateState.ABANDONED.value,
        ),
    )
)


class Ledger(Repository):
    """Instances, the TPMs that occupy them, and the Names and persistence keys bound to them for good."""

    def instance(self, kbs_id: str, resource: str, salt: str = "") -> InstanceRow | None:
        """The instance of this KBS and resource (and salt, for shared resources)."""
        return self._get(InstanceRow, schema.instances, kbs_id=kbs_id, resource=resource, salt=salt)

    def instances(self) -> list[InstanceRow]:
        """All instances, oldest first."""
        return self._all(InstanceRow, sa.select(schema.instances).order_by(schema.instances.c.id))

    def add_instance(self, kbs_id: str, resource: str, salt: str, at: datetime) -> int:
        """Make an instance known; returns its number."""
        values = {"kbs_id": kbs_id, "resource": resource, "salt": salt, "created_at": at}
        return self._insert_numbered(schema.instances, values)

    def occupant(self, instance_id: int) -> TpmRow | None:
        """The live TPM of an instance."""
        return self._get(TpmRow, schema.tpms, occupies=instance_id)

    def last_seen(self) -> dict[int, datetime]:
        """When the live TPM of each occupied instance was seen last, by the instance's number."""
        tpm = schema.tpms.c
        query = sa.select(tpm.occupies, tpm.last_at).where(tpm.occupies.is_not(None))
        return {row.occupies: row.last_at for row in self._connection.execute(query)}

    def tpms(self, instance_id: int) -> list[TpmRow]:
        """All TPMs that ever lived in an instance, oldest first."""
        table = schema.tpms
        return self._all(
            TpmRow, sa.select(table).where(table.c.instance_id == instance_id).order_by(table.c.id)
        )

    def add_tpm(self, instance_id: int, ek_set: str, state: TpmState) -> int:
        """Let a TPM occupy an instance; the database refuses if another one does. Returns its number."""
        return self._insert_numbered(
            schema.tpms,
            {
                "instance_id": instance_id,
                "occupies": instance_id,
                "ek_set": ek_set,
                "counter": state.counter,
                "root": state.root,
                "salt": state.salt,
                "report_id": state.report_id,
                "first_at": state.at,
                "last_at": state.at,
                "freed_at": None,
            },
        )

    def seen(self, tpm_id: int, state: TpmState) -> None:
        """Note the state that a TPM was seen in; the counter in the database never goes back."""
        # SQL cannot compare what goes round. SQLite's transaction holds the whole database, others lock the row.
        last = self._session.first(_LAST_COUNTER, {"id": tpm_id})
        if last is None or precedes(state.counter, last[0]):
            return
        self._update(
            schema.tpms,
            {"id": tpm_id},
            counter=state.counter,
            root=state.root,
            salt=state.salt,
            report_id=state.report_id,
            last_at=state.at,
        )

    def free(self, tpm_id: int, at: datetime) -> None:
        """End a TPM's life in its instance."""
        self._update(schema.tpms, {"id": tpm_id}, occupies=None, freed_at=at)

    def reset_at(self, instance_id: int) -> datetime | None:
        """When an operator last ended the life of a TPM that had been issued something in an instance."""
        found = self._session.first(_RESET_AT, {"instance_id": instance_id})
        return None if found is None else found[0]

    def bind_keys(self, keys: Iterable[tuple[str, str, str]], instance_id: int) -> None:
        """Bind keys to an instance for good: (Name, role, template) of each; the database refuses a bound one."""
        values = [
            {"name": name, "instance_id": instance_id, "role": role, "template": template}
            for name, role, template in keys
        ]
        self._insert_all(schema.tpm_keys, values)

    def keys(self, instance_id: int) -> list[tuple[str, str, str]]:
        """(role, template, Name) of every key bound to an instance."""
        table = schema.tpm_keys
        query = (
            sa.select(table).where(table.c.instance_id == instance_id).order_by(table.c.role, table.c.name)
        )
        return [(row.role, row.template, row.name) for row in self._connection.execute(query)]

    def bind_key_id(self, key_id: str, kbs_id: str, resource: str) -> None:
        """Bind a persistence key to a resource for good."""
        values = {"key_id": key_id, "kbs_id": kbs_id, "resource": resource}
        self._insert_all(schema.key_ids, [values])

    def instances_by_id(self, ids: Collection[int]) -> Mapping[int, InstanceRow]:
        """Several instances at once."""
        table = schema.instances
        return {row.id: row for row in self._all(InstanceRow, sa.select(table).where(table.c.id.in_(ids)))}
