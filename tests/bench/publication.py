"""What publishing costs: a hundred thousand revocations at once, one more that a relying party gets to see, and the
revocation of as many certificates by what they rest on.

The serials are in one issuing CA's lists, each with a time and a reason of its own; no list remembers anything of the
one before. Wall time, since that is how long a relying party waits; the CPU time beside it says what the machine adds.
"""

import os
import time
from datetime import timedelta
from pathlib import Path

import enrollment_world as w
from cryptography import x509
from filling import fill

from ca_service.api import Services, create_app
from ca_service.enrollment import Grounds, Limits, publish, revoke, revoke_by_cause
from ca_service.keys import PublicationRule
from ca_service.profiles import serial_hex
from ca_service.status import REASONS
from ca_service.store import Cause, CertificateState, RevocationRow

ENTRIES = 100_000
SHARDS = PublicationRule().shards
KIB = 1024


def measure(folder: Path) -> dict[str, float]:
    """Seconds (wall, CPU) for all lists, KiB of the largest, seconds (wall, CPU) from a revocation to its list.

    All of a CA with the number of shards that a new one gets.
    """
    world = w.World.create(folder / "publication", SHARDS)
    store = world.new_store()
    world.apply(store, world.policy())
    enroller = world.enroller(store)
    enroller.recover()
    w.issue(world, enroller, w.SoftTpm())
    skid = world.authority.issuer("ek").skid
    rows = [_revocation(world, skid, number) for number in range(ENTRIES)]
    with store.write() as tx:
        tx.revocations.add_all(rows)
    client = create_app(Services(store, enroller)).test_client()
    spent, begun = time.process_time(), time.perf_counter()
    with store.write() as tx:
        made = publish(tx, world.authority, [skid], world.time, Limits())
    served = [client.get(f"/crl/{skid}/{shard}.crl").data for shard in range(SHARDS)]
    wall, cpu = time.perf_counter() - begun, time.process_time() - spent
    if served != [row.der for row in made]:
        raise SystemExit("what is served is not what was published")
    listed = sum(len(x509.load_der_x509_crl(row.der)) for row in made)
    if (listed, len(made)) != (ENTRIES, SHARDS):
        raise SystemExit(f"{listed} entries are on {len(made)} lists")
    result = {"wall": wall, "cpu": cpu, "largest": max(len(row.der) for row in made) / KIB}
    result["one"], result["one_cpu"] = _one(world, store, client, skid)
    store.close()
    world.close()
    return result | by_cause(folder / "cause")


def by_cause(folder: Path) -> dict[str, float]:
    """Seconds (wall, CPU) in which as many certificates of all issuing CAs are revoked by their key broker's id.

    Lists included, in the steps in which `vtpm-ca revoke` does it.
    """
    world = w.World.create(folder, SHARDS)
    store = world.new_store()
    world.apply(store, world.policy())
    store.close()
    fill(world, ENTRIES)
    store = world.open_store()
    world.enroller(store).recover()
    cause, grounds = Cause(kbs="org-kbs"), Grounds(world.time, "keyCompromise", "bench")
    spent, begun = time.process_time(), time.perf_counter()
    revoked, more = 0, True
    while more:
        ended = revoke_by_cause(store, world.authority, cause, grounds, Limits())
        revoked, more = revoked + len(ended.rows), ended.more
    result = {"cause": time.perf_counter() - begun, "cause_cpu": time.process_time() - spent}
    if revoked < ENTRIES:
        raise SystemExit(f"{revoked} certificates are revoked")
    store.close()
    world.close()
    return result


def _revocation(world: w.World, skid: str, number: int) -> RevocationRow:
    serial = world.authority.new_serial(os.urandom)
    at, reason = world.time - timedelta(seconds=number), REASONS[number % len(REASONS)]
    shard = world.authority.issuer_of(skid).info.shard_of(serial)
    return RevocationRow(skid, serial_hex(serial), at, reason, "bench", shard)


def _one(world: w.World, store, client, skid: str) -> tuple[float, float]:
    """Wall and CPU time from the operator's word to the list in a relying party's hands."""
    with store.read() as tx:
        row = next(row for row in tx.certificates.latest(state=CertificateState.ISSUED) if row.issuer == skid)
    spent, begun = time.process_time(), time.perf_counter()
    revoke(
        store, world.authority, row.serial, at=world.time, reason="superseded", cause="bench", limits=Limits()
    )
    der = client.get(f"/crl/{skid}/{row.shard}.crl").data
    passed = time.perf_counter() - begun, time.process_time() - spent
    if x509.load_der_x509_crl(der).get_revoked_certificate_by_serial_number(int(row.serial, 16)) is None:
        raise SystemExit("the revocation is not on the list")
    return passed
