"""X: true pieces of evidence that do not belong together."""

import os
from collections.abc import Callable
from dataclasses import replace

from vtpm.errors import VtpmError
from vtpm.host import Behaviour, HostConfig, KbsRefused, Release
from vtpm.lab.attacks.forging import Answer, EditingHost, answers, guesses, tpm_statement
from vtpm.lab.attacks.mitm import OwnSecret
from vtpm.lab.attacks.model import Attack
from vtpm.lab.attacks.possession import (
    NothingGained,
    attackers_tpm,
    certificate_of,
    opened,
    own_tpm,
)
from vtpm.lab.attacks.scene import Scene
from vtpm.tpm import Swtpm, TpmKeys
from vtpm.wire.aproxy import AttestationRequest, AttestationResponse
from vtpm.wire.jwe import parse_protected
from vtpm.wire.statements import TpmStatement

Edit = Callable[[TpmStatement], TpmStatement]


def _boot_edited(scene: Scene, tpm: Swtpm, keys: TpmKeys, edit: Edit, answer: Answer | None) -> None:
    """Boot a victim on a host that edits its evidence.

    The victim never comes up: it notices the strange certificates, if not more. That is no matter to the attacker
    who has them by then, so only what the CA refused counts as what stopped the attack.
    """
    host = EditingHost(scene.host_config(), edit, tpm, keys, answer)
    try:
        scene.boot(scene.disk(), host)
    except VtpmError:
        if not scene.ca.certificates():
            raise


def _x1_ek(scene: Scene) -> str:
    with own_tpm() as (tpm, keys):
        mine = tpm_statement(tpm, keys)
        _boot_edited(scene, tpm, keys, lambda _genuine: mine, lambda reply: answers(tpm, keys, reply))
        return attackers_tpm(scene.ca, tpm, keys)


def _x1_iak(scene: Scene) -> str:
    with own_tpm() as (tpm, keys):

        def edit(genuine: TpmStatement) -> TpmStatement:
            return replace(genuine, iak=keys.iak, idevid=keys.idevid)

        _boot_edited(scene, tpm, keys, edit, guesses)
        return attackers_tpm(scene.ca, tpm, keys)


def _x1_idevid(scene: Scene) -> str:
    with own_tpm() as (tpm, keys):

        def edit(genuine: TpmStatement) -> TpmStatement:
            return replace(genuine, idevid=keys.idevid)

        _boot_edited(scene, tpm, keys, edit, None)
        certificate = certificate_of(scene.ca, keys.idevid.public)
    if certificate is None:
        raise NothingGained("the CA has not certified the attacker's IDevID")
    return f"IDevID certificate {certificate.serial_number:x} in the victim's name, for a key of the attacker's TPM"


class _GrantThief(Behaviour):
    """Keeps the grant of an exchange, and delivers nothing."""

    def __init__(self, config: HostConfig) -> None:
        super().__init__(config)
        self.grant = ""

    def delivery(self, request: AttestationRequest, release: Release) -> AttestationResponse:  # noqa: ARG002 - the base's form
        """Read the grant out of the header."""
        self.grant = parse_protected(release.sealed.protected.encode("ascii")).grant or ""
        raise KbsRefused("the host keeps the answer to itself")


def _x1_grant(scene: Scene) -> str:
    disk, thief, loot = scene.disk(), _GrantThief(scene.host_config()), os.urandom(32)
    try:
        scene.boot(disk, thief)
    except VtpmError:
        if not thief.grant:
            raise
    scene.boot(disk, OwnSecret(scene.host_config(), loot, grant=thief.grant))
    with opened(disk.path, loot) as (tpm, keys):
        return attackers_tpm(scene.ca, tpm, keys)


ATTACKS = (
    Attack(
        "x1-ek",
        "host",
        "puts a TPM of its own into the evidence beside the victim's report",
        ("evidence.report-data",),
        _x1_ek,
    ),
    Attack(
        "x1-iak",
        "host",
        "puts IAK and IDevID of a TPM of its own beside the victim's EK, and guesses the activation secret",
        ("evidence.report-data", "activation.secret"),
        _x1_iak,
    ),
    Attack(
        "x1-idevid",
        "host",
        "puts the IDevID of a TPM of its own beside the victim's EK and IAK, and lets the victim answer the challenge",
        ("evidence.report-data", "certify.signer", "certify.signature"),
        _x1_idevid,
    ),
    Attack(
        "x1-grant",
        "host",
        "delivers the grant of an earlier launch with a secret of its own",
        (
            "svsm.grant-epk",
            "svsm.grant-tee",
            "svsm.grant-nonce",
            "svsm.key-id",
            "grant.report-id",
            "grant.key-id",
        ),
        _x1_grant,
    ),
)
