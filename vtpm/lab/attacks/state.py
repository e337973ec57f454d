"""T: other state under a certified TPM - none, somebody else's, old, or the same twice."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from vtpm.host import Behaviour
from vtpm.lab.attacks.model import Attack
from vtpm.lab.attacks.possession import (
    NothingGained,
    certified,
    opened,
    recorded_keys,
    sign_as_certified,
)
from vtpm.lab.attacks.scene import RESOURCE, Disk, Scene
from vtpm.svsm.boot import Launched
from vtpm.tpm import read_certificate, write_certificate

_INDEX = 0x01C08000
"""An NV index that no key's certificate has; what is there stands for any state that a guest relies on."""

_FIRST, _SECOND = "default/vtpm/first", "default/vtpm/second"
_WITNESS = "the state-history witness; only who has seen the newest state can tell"


def _victims_key(scene: Scene) -> bytes:
    """The victim's persistence key, for the lab to look into the disk; the attacks here do without it."""
    known = scene.kbs.secret(RESOURCE)
    if known is None:
        raise NothingGained("the key broker knows no such resource")
    return known.value


def _t1_reset(scene: Scene) -> str:
    disk, host = scene.disk(), Behaviour(scene.host_config())
    scene.boot(disk, host)
    before = recorded_keys(disk.path, _victims_key(scene))
    disk.blank()
    scene.boot(disk, host)
    after = recorded_keys(disk.path, _victims_key(scene))
    if before.eks == after.eks:
        raise NothingGained("the TPM is the same as before")
    both = [f"{certified(scene.ca, keys.iak.public, 'IAK').serial_number:x}" for keys in (before, after)]
    return f"two TPMs with live IAK certificates in one instance ({' and '.join(both)}): a reset that nobody notices"


def _t1_foreign(scene: Scene) -> str:
    shared = os.urandom(32)
    scene.kbs.declare(_FIRST, shared)
    scene.kbs.declare(_SECOND, shared)
    first, second = scene.disk("first"), scene.disk("second")
    scene.boot(first, Behaviour(scene.host_config(_FIRST)))
    second.put(first.copy())
    scene.boot(second, Behaviour(scene.host_config(_SECOND)))
    with opened(second.path, shared) as (tpm, keys):
        certificate = sign_as_certified(scene.ca, tpm, keys)
    return f"the second machine is taken for the first: both sign as IAK certificate {certificate.serial_number:x}"


@contextmanager
def _running(scene: Scene, disk: Disk) -> Iterator[Launched]:
    with scene.running(disk, Behaviour(scene.host_config())) as launched:
        yield launched


def _rolled_back(scene: Scene, *, boots_after: int) -> str:
    """A guest changes its TPM's state; then the host puts an older copy of the disk back.

    Args:
        scene: where.
        boots_after: how often the machine boots, and shows the CA its state, between the change and the rollback.
    """
    disk = scene.disk()
    with _running(scene, disk) as launched:
        write_certificate(launched.tpm, _INDEX, b"before")
    old = disk.copy()
    with _running(scene, disk) as launched:
        write_certificate(launched.tpm, _INDEX, b"after")
    for _ in range(boots_after):
        with _running(scene, disk):
            pass
    disk.put(old)
    keys = recorded_keys(disk.path, _victims_key(scene))
    with _running(scene, disk) as launched:
        if read_certificate(launched.tpm, _INDEX) != b"before":
            raise NothingGained("the TPM's state is not the old one")
        certificate = sign_as_certified(scene.ca, launched.tpm, keys)
    return (
        f"a TPM that signs as IAK certificate {certificate.serial_number:x} and has forgotten what its guest wrote: "
        "old counters, old secrets, old revocations"
    )


def _t2(scene: Scene) -> str:
    return _rolled_back(scene, boots_after=0)


def _t2_seen(scene: Scene) -> str:
    return _rolled_back(scene, boots_after=1)


def _t3(scene: Scene) -> str:
    disk = scene.disk()
    with _running(scene, disk):
        pass
    twin = scene.disk("twin")
    twin.put(disk.copy())
    keys = recorded_keys(disk.path, _victims_key(scene))
    with _running(scene, disk) as one, _running(scene, twin) as other:
        serials = {sign_as_certified(scene.ca, launched.tpm, keys).serial_number for launched in (one, other)}
    if len(serials) != 1:
        raise NothingGained("the two machines are not the same TPM")
    return (
        f"two machines at once that both sign as IAK certificate {serials.pop():x}: their quotes can be mixed"
    )


ATTACKS = (
    Attack(
        "t1-reset",
        "host",
        "exchanges the disk of a certified TPM for a blank one",
        ("ledger.instance-occupied",),
        _t1_reset,
    ),
    Attack(
        "t1-foreign",
        "host",
        "puts the image of one machine under another, whose key is the same by a mistake of the key broker's operator",
        ("ledger.key-unique", "ledger.key-id-unique"),
        _t1_foreign,
        origins=("provisioned",),
    ),
    Attack(
        "t2-seen",
        "host",
        "puts a disk back that is older than the state that the CA has seen",
        ("ledger.counter",),
        _t2_seen,
    ),
    Attack(
        "t2",
        "host",
        "puts a disk back that is older than the last change, but not older than what the CA has seen",
        (),
        _t2,
        awaits=_WITNESS,
    ),
    Attack(
        "t3",
        "host",
        "boots two machines at once from one image",
        (),
        _t3,
        awaits=_WITNESS,
    ),
)
