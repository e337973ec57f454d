"""Instances: which TPM lives where, and the reset that ends its life."""

from collections.abc import Mapping
from datetime import datetime

from ca_service.enrollment import reset_instance
from ca_service.judgment import NotFound
from ca_service.operations.bounds import MAX_CAUSE
from ca_service.operations.certificates import certificate_row, rows_now
from ca_service.operations.context import (
    Json,
    Operation,
    OperationContext,
    instant,
    optional_flag,
    optional_text,
    recorded_cause,
)
from ca_service.operations.tenants import brokers_of, tenants
from ca_service.store import InstanceRow, TpmRow, Transaction
from vtpm.wire.encoding import Members
from vtpm.wire.grant import check_resource


def _tpm(row: TpmRow) -> dict[str, Json]:
    return {
        "live": row.occupies is not None,
        "counter": str(row.counter),
        "salt": row.salt,
        "first_at": instant(row.first_at),
        "last_at": instant(row.last_at),
        "freed_at": instant(row.freed_at),
    }


def _instance(row: InstanceRow, owners: Mapping[str, str], last_at: datetime | None) -> dict[str, Json]:
    return {
        "kbs": row.kbs_id,
        "tenant": owners.get(row.kbs_id),
        "resource": row.resource,
        "salt": row.salt,
        "created_at": instant(row.created_at),
        "occupied": last_at is not None,
        "last_at": instant(last_at),
    }


def _find(tx: Transaction, arguments: Members) -> InstanceRow:
    kbs = arguments.text("kbs", most=128)
    resource = check_resource(arguments.text("resource", most=128), "resource")
    salt = optional_text(arguments, "salt", most=512)
    row = tx.ledger.instance(kbs, resource, salt)
    if row is None:
        raise NotFound("there is no such instance", remedy="`vtpm-ca instance list` names them.")
    return row


def list_(context: OperationContext, arguments: Members) -> Json:
    """All instances, oldest first; with `tenant` those of its key brokers, as the policy in force names them."""
    tenant = optional_text(arguments, "tenant", most=64)
    arguments.end()
    with context.store.read() as tx:
        owners = tenants(tx, context.clock())
        wanted = brokers_of(tenant, owners) if tenant else None
        rows, last_seen = tx.ledger.instances(), tx.ledger.last_seen()
    return [
        _instance(row, owners, last_seen.get(row.id))
        for row in rows
        if wanted is None or row.kbs_id in wanted
    ]


def show(context: OperationContext, arguments: Members) -> Json:
    """One instance: its TPMs, keys, and the live TPM's certificates."""
    with context.store.read() as tx:
        row = _find(tx, arguments)
        arguments.end()
        occupant = tx.ledger.occupant(row.id)
        certificates = [] if occupant is None else tx.certificates.of_tpm(occupant.id)
        return {
            **_instance(row, tenants(tx, context.clock()), None if occupant is None else occupant.last_at),
            "tpms": [_tpm(tpm) for tpm in tx.ledger.tpms(row.id)],
            "keys": [
                {"role": role, "template": template, "name": name}
                for role, template, name in tx.ledger.keys(row.id)
            ],
            "certificates": [certificate_row(certificate) for certificate in certificates],
        }


def reset(context: OperationContext, arguments: Members) -> Json:
    """End the life of the TPM in an instance: revoke its certificates and free the instance.

    A dry run, which lists what would be revoked, unless `yes` is true.
    """
    with context.store.read() as tx:
        row = _find(tx, arguments)
        occupant = tx.ledger.occupant(row.id)
        live = [] if occupant is None else [c for c in tx.certificates.of_tpm(occupant.id) if c.live]
    cause = optional_text(arguments, "cause", most=MAX_CAUSE)
    confirmed = optional_flag(arguments, "yes")
    arguments.end()
    if confirmed:
        live = reset_instance(
            context.store,
            context.unlock(),
            row.kbs_id,
            row.resource,
            salt=row.salt,
            at=context.clock(),
            cause=recorded_cause(context, "instance reset", cause),
            limits=context.limits,
        )
    elif occupant is None:
        raise NotFound("no TPM lives in this instance")
    return {"done": confirmed, "revoked": rows_now(context, live)}


OPERATIONS = (
    Operation("instance-list", list_),
    Operation("instance-show", show),
    Operation("instance-reset", reset, publishes=True),
)
