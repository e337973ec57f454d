"""S and D: the SVSM gets another secret, another image or no disk at all."""

import os

from vtpm.host import Behaviour
from vtpm.host.malicious import OwnKbs
from vtpm.lab.attacks.mitm import KBS_RULES
from vtpm.lab.attacks.model import Attack, PolicyDecision
from vtpm.lab.attacks.naive import KeyBesideBoot, VolatileBoot, key_beside
from vtpm.lab.attacks.possession import NothingGained, attackers_tpm, opened, own_tpm
from vtpm.lab.attacks.scene import TENANT_RESOURCE, Disk, Scene
from vtpm.svsm.records import encode_keys
from vtpm.volume import TpmRecord, open_volume, record_tpm


def _plant_image(disk: Disk, secret: bytes) -> None:
    """Put a TPM of the attacker's making on a disk, under a secret of the attacker's choice."""
    with own_tpm() as (tpm, keys), open_volume(disk.path, secret) as volume:
        record_tpm(volume, TpmRecord(tpm.take_state(), encode_keys(keys)))


def _s1(scene: Scene) -> str:
    host, disk = OwnKbs(scene.host_config()), scene.disk()
    _plant_image(disk, host.loot)
    scene.boot(disk, host)
    with opened(disk.path, host.loot) as (tpm, keys):
        return attackers_tpm(scene.ca, tpm, keys)


def _s2(scene: Scene) -> str:
    tenants = os.urandom(32)
    scene.kbs.declare(TENANT_RESOURCE, tenants)
    disk = scene.disk()
    scene.boot(disk, Behaviour(scene.host_config(TENANT_RESOURCE)))
    with opened(disk.path, tenants) as (tpm, keys):
        return attackers_tpm(scene.ca, tpm, keys)


def _s3(scene: Scene) -> str:
    secret, disk = os.urandom(32), scene.disk()
    _plant_image(disk, secret)
    key_beside(disk.path).write_bytes(secret)
    scene.boot(disk, Behaviour(scene.host_config()), boot=KeyBesideBoot)
    with opened(disk.path, secret) as (tpm, keys):
        return attackers_tpm(scene.ca, tpm, keys)


def _d1(scene: Scene) -> str:
    disk = scene.disk()
    disk.path.unlink()
    with scene.running(disk, Behaviour(scene.host_config()), boot=VolatileBoot):
        pass
    issued = scene.ca.certificates()
    if disk.path.exists() or not issued:
        raise NothingGained("the TPM was kept on a disk, or not certified")
    return (
        f"{len(issued)} certificates, {issued[0].serial_number:x} among them, of a TPM that went with its VM: whoever "
        "trusts them believes in a state that the host ends whenever it likes"
    )


ATTACKS = (
    Attack(
        "s1",
        "host",
        "plants an image with a TPM of its own, and has a key broker of its own hand out that image's key",
        KBS_RULES,
        _s1,
    ),
    Attack(
        "s2",
        "host, with a tenant's help,",
        "has the genuine key broker hand out a tenant's key, which the tenant knows, instead of the victim's",
        ("kbs.resource", "kbs.origin"),
        _s2,
        decision=PolicyDecision(
            {
                "UnsafeAllowAnyResource": "that a key broker vouches for what it keeps for this organisation only",
                "UnsafeAllowAnyOrigin": "that nobody outside the key broker knows the keys of the volumes",
            }
        ),
    ),
    Attack(
        "s3",
        "host",
        "plants an image with a TPM of its own, while the genuine key broker hands out the genuine key",
        ("store.key",),
        _s3,
    ),
    Attack(
        "d1",
        "host",
        "takes the disk away, so that the TPM is manufactured into memory",
        ("store.missing", "store.persistent", "store.format"),
        _d1,
        decision=PolicyDecision(
            {"UnsafeAllowVolatileStore": "that a certified TPM has a state which outlives its boot"},
            elsewhere=("store.missing",),
        ),
    ),
)
