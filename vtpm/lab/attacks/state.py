"""T: other state under a certified TPM - none, somebody else's, old, or the same twice."""

import os
import secrets

from vtpm.host import Behaviour
from vtpm.lab.attacks.model import Attack
from vtpm.lab.attacks.possession import NothingGained, certified, opened, signs_as_certified
from vtpm.lab.attacks.scene import RESOURCE, TENANT_RESOURCE, Scene
from vtpm.svsm.records import parse_keys
from vtpm.tpm import Swtpm, TpmKeys, read_certificate, write_certificate

_INDEX = 0x01C08000
"""An NV index that no key's certificate has; what is there stands for any state that a guest relies on."""

_OTHER_RESOURCE = "default/vtpm/other"
_WITNESS = "the state-history witness: only who has seen the newest state can tell that this is an older one"


def _persistence_key(scene: Scene) -> bytes:
    known = scene.kbs.secret(RESOURCE)
    if known is None:
        raise NothingGained("the key broker knows no such resource")
    return known.value


def _t1_reset(scene: Scene) -> str:
    disk, host = scene.disk(), Behaviour(scene.host_config())
    scene.boot(disk, host)
    with opened(disk.path, _persistence_key(scene)) as (_tpm, keys):
        before = keys
    disk.blank()
    scene.boot(disk, host)
    with opened(disk.path, _persistence_key(scene)) as (_tpm, keys):
        after = keys
    certificates = [certified(scene.ca, one.iak.public, "TPM of this instance") for one in (before, after)]
    if before.eks == after.eks:
        raise NothingGained("the TPM is the same as before")
    serials = " and ".join(f"{certificate.serial_number:x}" for certificate in certificates)
    return f"two TPMs with live certificates in one instance ({serials}): all state of the first is gone unnoticed"


def _t1_foreign(scene: Scene) -> str:
    shared = os.urandom(32)
    scene.kbs.declare("default/vtpm/first", shared)
    scene.kbs.declare(_OTHER_RESOURCE, shared)
    first, second = scene.disk("first"), scene.disk("second")
    scene.boot(first, Behaviour(scene.host_config("default/vtpm/first")))
    second.put(first.copy())
    scene.boot(second, Behaviour(scene.host_config(_OTHER_RESOURCE)))
    with opened(second.path, shared) as (tpm, keys):
        proof = signs_as_certified(scene.ca, tpm, keys)
    return f"one TPM is admitted in two instances: {proof}"


def _note(tpm: Swtpm, text: bytes) -> None:
    write_certificate(tpm, _INDEX, text)


def _t2(scene: Scene) -> str:
    disk, host = scene.disk(), Behaviour(scene.host_config())
    with scene.running(disk, host) as launched:
        _note(launched.tpm, b"before")
    old = disk.copy()
    with scene.running(disk, host) as launched:
        _note(launched.tpm, b"after")
    disk.put(old)
    with scene.running(disk, host) as launched:
        if read_certificate(launched.tpm, _INDEX) != b"before":
            raise NothingGained("the TPM's state is not the old one")
    return "a certified TPM that has forgotten what its guest had written since: " + _still_signs(
        scene, disk.path
    )


def _still_signs(scene: Scene, path: os.PathLike[str]) -> str:
    return str(path)


def _t2_seen(scene: Scene) -> str:
    disk, host = scene.disk(), Behaviour(scene.host_config())
    with scene.running(disk, host) as launched:
        _note(launched.tpm, b"before")
    old = disk.copy()
    with scene.running(disk, host) as launched:
        _note(launched.tpm, b"after")
    scene.boot(disk, host)
    disk.put(old)
    with scene.running(disk, host) as launched:
        if read_certificate(launched.tpm, _INDEX) != b"before":
            raise NothingGained("the TPM's state is not the old one")
    return "x"


def _t3(scene: Scene) -> str:
    disk, host = scene.disk(), Behaviour(scene.host_config())
    scene.boot(disk, host)
    twin = scene.disk("twin")
    twin.put(disk.copy())
    with scene.running(disk, host) as one, scene.running(twin, host) as other:
        return "x"
