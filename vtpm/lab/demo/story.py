"""The demonstration's story: the honest chain, a second boot, two attacks."""

import hashlib
import json
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import click
import requests
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.policy import example_document
from vtpm.lab.demo.stage import DemoFailed, Party, Stage

RESOURCE = "default/vtpm/demo"
ATTACK_RESOURCE = "default/vtpm/victim"
_ROLES = ("ek", "iak", "idevid")

_MEANING = {
    "kbs": "The KBS attests the SVSM and sends the key with its signed grant; the SVSM verifies and remembers it.",
    "volume": "The SVSM opens its encrypted volume with that key; a blank disk is formatted now.",
    "tpm": "EK, IAK and IDevID: manufactured in swtpm from the TCG's templates, or loaded and compared.",
    "enrol": "The CA gives a nonce, judges evidence and TPM2_Certify, challenges the EK; certificates come back.",
    "store": "Certificates go into the TPM's NV memory, and with its state into the volume.",
    "guest": "The guest may start. Its TPM answers through the SVSM:",
    "off": "The TPM is shut down in order, its state kept.",
}
"""What each step of a boot is about, in one sentence."""


@dataclass(frozen=True)
class BootStory:
    """What one boot told: the machine's process and its steps by name."""

    party: Party
    steps: dict[str, dict[str, object]]

    def value(self, step: str, name: str) -> str:
        """One finding of a step; empty if the step or the finding is missing."""
        return str(self.steps.get(step, {}).get(name, ""))


def tell(stage: Stage, *, hold: bool) -> None:
    """Run all of it; raises `DemoFailed` at the first thing that does not come out as it must."""
    click.secho(f"vtpm-ca {metadata.version('vtpm-ca')}: from nothing to a certified vTPM", bold=True)
    stage.say(f"artefacts: {stage.folder}")
    _set_up(stage)
    first = _first_boot(stage)
    digests = _certificates(stage)
    _independent_clients(stage, first)
    second = _second_boot(stage, first, digests)
    _attack_m1(stage)
    _attack_m3(stage)
    if not hold:
        second.party.stop()
    _summary(stage)
    if hold:
        stage.say("HOLD: all parties stay up; interrupt (Ctrl-C) to end them")
        while second.party.process.poll() is None:
            time.sleep(0.5)


def _set_up(stage: Stage) -> None:
    stage.chapter("The organisation sets up its key broker and its CA")
    ceremony = example_document("ceremony-simulation.toml").replace("http://127.0.0.1:8443", stage.ca_url)
    (stage.folder / "ceremony.toml").write_text(ceremony)
    stage.run("vtpm-ca", "init", "ca", "--config", "ceremony.toml")
    for resource in (RESOURCE, ATTACK_RESOURCE):
        stage.run("vtpm", "kbs", "declare", "kbs", resource)
    kbs = stage.start("kbs", "vtpm", "kbs", "serve", "kbs", "--bind", f"127.0.0.1:{stage.kbs_port}")
    ca = stage.start("ca", "vtpm-ca", "serve", "--bind", f"127.0.0.1:{stage.ca_port}")
    stage.await_url(kbs, stage.kbs_url)
    stage.await_url(ca, f"{stage.ca_url}/healthz")
    policy = [
        example_document("simulation.toml"),
        stage.run("vtpm", "kbs", "key", "kbs", "--policy"),
        stage.run("vtpm", "measure", "--policy"),
    ]
    (stage.folder / "policy.toml").write_text("\n".join(policy))
    stage.run("vtpm-ca", "policy", "apply", "policy.toml")
    stage.say("the CA now allows this KBS key and this SVSM measurement, and nothing else")


def _boot(stage: Stage, name: str, *options: str, machine: str = "machine") -> BootStory:
    """Boot a machine and follow its story until its guest's TPM is up, or it ends."""
    party = stage.start(
        name,
        *("vtpm", "boot", machine, "--ca", stage.ca_url, "--kbs", stage.kbs_url, "--json", *options),
        story=True,
    )
    steps: dict[str, dict[str, object]] = {}
    for event in party.events():
        steps[event.step] = event.detail
        if event.step in _MEANING:
            stage.say(_MEANING[event.step])
        stage.say(f"  {event.render()}")
        if event.step == "guest":
            return BootStory(party, steps)
    party.process.wait(30)
    return BootStory(party, steps)


def _honest_boot(stage: Stage, name: str) -> BootStory:
    story = _boot(stage, name, "--resource", RESOURCE, "--hold")
    if "guest" not in story.steps:
        log = (stage.folder / f"{name}.log").read_text().strip()
        raise DemoFailed("the machine did not come up", remedy=log)
    (stage.folder / "tcti").write_text(story.value("guest", "tcti") + "\n")
    return story


def _first_boot(stage: Stage) -> BootStory:
    stage.chapter("First boot: attest, format the volume, manufacture the TPM in swtpm, enrol")
    story = _honest_boot(stage, "boot-1")
    if story.value("tpm", "origin") != "manufactured":
        raise DemoFailed("the first boot did not manufacture a TPM")
    return story


def _issued(stage: Stage) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(stage.run("vtpm-ca", "cert", "list", "--json", show=False))
    return rows


def _decisions(stage: Stage) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(stage.run("vtpm-ca", "decision", "list", "--json", show=False))
    return rows


def _certificates(stage: Stage) -> dict[str, str]:
    """Write the certificates as PEM files and return their SHA-256 by role."""
    digests = {}
    for row in _issued(stage):
        role, url = str(row["profile"]), f"{stage.ca_url}/v1/certificates/{row['serial']}"
        published = requests.get(url, headers={"Accept": "application/pkix-cert"}, timeout=10)
        certificate = x509.load_der_x509_certificate(published.content)
        (stage.folder / f"{role}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        digests[role] = hashlib.sha256(published.content).hexdigest()
    if sorted(digests) != sorted(_ROLES):
        raise DemoFailed(f"expected one certificate each of {', '.join(_ROLES)}, found {sorted(digests)}")
    return digests


def _independent_clients(stage: Stage, first: BootStory) -> None:
    stage.chapter("Independent clients look at what was issued")
    store = "tpm_cert_store"
    stage.run("vtpm-ca", "export", "keylime", store)
    stage.say(
        f"keylime's tpm_cert_store: {', '.join(sorted(path.name for path in (stage.folder / store).iterdir()))}"
    )
    (stage.folder / "root.pem").write_text(stage.run("vtpm-ca", "ca", "list", "--root-pem", show=False))
    issuing = sorted((stage.folder / store).glob("*.pem"))
    (stage.folder / "issuing.pem").write_text("".join(path.read_text() for path in issuing))
    for role in _ROLES:
        chain = ("-CAfile", "root.pem", "-untrusted", "issuing.pem")
        stage.say("  " + stage.run("openssl", "verify", *chain, f"{role}.pem").strip())
    tcti = first.value("guest", "tcti")
    stage.run("tpm2_getekcertificate", "-T", tcti, "-X", "-o", "ek-from-tpm.der")
    der = (stage.folder / "ek-from-tpm.der").read_bytes()
    issued = x509.load_pem_x509_certificate((stage.folder / "ek.pem").read_bytes())
    if x509.load_der_x509_certificate(der) != issued:
        raise DemoFailed("tpm2_getekcertificate read another certificate than the CA issued")
    stage.say("  the EK certificate in the TPM's NV storage is the one that the CA issued")


def _second_boot(stage: Stage, first: BootStory, digests: dict[str, str]) -> BootStory:
    stage.chapter("Second boot, from the volume: same TPM, same certificates, nothing issued anew")
    first.party.stop()
    story = _honest_boot(stage, "boot-2")
    same = {
        "the TPM was loaded": story.value("tpm", "origin") == "loaded",
        "its EK is the same": story.value("tpm", "ek_name") == first.value("tpm", "ek_name"),
        "its certificates are the same, byte for byte": _certificates(stage) == digests,
        "the CA issued nothing anew": len(_issued(stage)) == len(digests),
    }
    for sentence, holds in same.items():
        if not holds:
            raise DemoFailed(f"second boot: it does not hold that {sentence}")
        stage.say(f"  {sentence}")
    return story


def _refused_boot(stage: Stage, name: str, behaviour: str, rule: str) -> BootStory:
    """Boot a victim machine on a hostile host; it must end refused, by that rule."""
    story = _boot(
        stage, name, "--resource", ATTACK_RESOURCE, "--host", behaviour, machine=f"machine-{behaviour}"
    )
    met = story.value("refused", "rule")
    if story.party.process.returncode != 1 or met != rule:
        log = (stage.folder / f"{name}.log").read_text().strip()
        raise DemoFailed(f"{name}: expected a refusal by {rule}, met {met or 'none'}", remedy=log)
    return story


def _attack_m1(stage: Stage) -> None:
    stage.chapter("Attack M1: the host answers with a key broker of its own")
    story = _refused_boot(stage, "attack-m1", "m1", "kbs.listed")
    decision = story.value("refused", "decision_id")
    trace = stage.run("vtpm-ca", "decision", "show", decision, "--json")
    (stage.folder / "attack-m1-decision.json").write_text(trace)
    stage.say("  REFUSED BY THE CA, rule kbs.listed: the SVSM booted, but that KBS is on no allow-list")


def _attack_m3(stage: Stage) -> None:
    stage.chapter("Attack M3: the genuine header and grant, paired with the attacker's ephemeral key")
    before = len(_decisions(stage))
    _refused_boot(stage, "attack-m3", "m3", "svsm.epk")
    if len(_decisions(stage)) != before:
        raise DemoFailed("the CA was asked, though the SVSM should have stopped before")
    stage.say("  REFUSED BY THE SVSM, rule svsm.epk: the CA was never asked")


def _summary(stage: Stage) -> None:
    (stage.folder / "decisions.json").write_text(json.dumps(_decisions(stage), indent=1) + "\n")
    click.secho(f"\nDone in {stage.elapsed_s:.1f} s", bold=True)
    rows = {
        "certificates": "ek.pem, iak.pem, idevid.pem; root.pem, issuing.pem",
        "for keylime": "tpm_cert_store/",
        "decision traces": "decisions.json, attack-m1-decision.json",
        "logs": "ca.log, kbs.log, boot-*.log, attack-*.log",
    }
    for what, where in rows.items():
        stage.say(f"{what:<16} {where}")
    stage.say(f"{'in folder':<16} {Path(stage.folder)}")
