"""Make `policies/tested/`: a small policy of a simulation CA, with recorded evidence and tests inside.

    PYTHONPATH=.:tests/support python tests/vectors/policies/make.py

A throwaway CA meets TPMs in software on the simulated platform, and what it decided on is recorded as `vtpm-ca decision
record` does. Evidence is judged as at the time of its record, so it stays good. All keys are random and forgotten: a
second run gives other bytes, so the folder is made once and then kept. It is made anew when a release reads recorded
decisions no more.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import enrollment_world as w
from cryptography.hazmat.primitives.asymmetric import ec

from ca_service.enrollment import Enroller
from ca_service.judgment import Refused
from ca_service.store import Store
from vtpm.lab.allowlist import launch_entry, platform_entry
from vtpm.wire.jwk import EcJwk

HERE = Path(__file__).parents[3] / "policies" / "tested"

DOCUMENT = """\
# A small policy of a simulation CA, with its tests inside:
#
#     vtpm-ca policy test policies/tested/policy.toml
#
# Each test names evidence that a CA has judged before (`vtpm-ca decision record` wrote it), and what this document must
# say of it. Take it as a pattern, and do not put it in force: nobody has the key of its key broker any more. Evidence
# and document come from tests/vectors/policies/make.py.

schema = 1

[grant]
max_age_s = 3600

[tpm]
ek = ["L-1"]
iak = ["H-3"]
idevid = ["H-3"]

[store]
formats = ["cocoonfs/1"]

[[kbs]]
id = "example-kbs"
label = "the key broker of the example"
status = "trusted"
origins = ["kbs-generated"]
release_policies = ["{release_policy}"]

[[kbs.key]]
jwk = {{ {jwk} }}

[[kbs.resource]]
pattern = "default/vtpm/*"
{launch}
# The simulated processor, as in simulation.toml.
{platform}
# What must stay admitted: whoever narrows this policy by mistake hears of it before the machines do.
[[test]]
name = "a-genuine-guest"
evidence = "evidence/genuine.json"
expect = "admitted"

# The same evidence, a day later: the key broker's grant is too old by then.
[[test]]
name = "a-grant-of-yesterday"
evidence = "evidence/genuine.json"
at = 2026-11-24T12:00:00Z
expect = "refused"
rule = "grant.age"

# What must stay refused: whoever widens this policy by mistake hears of it, too.
{refused}"""

REFUSED = """\
[[test]]
name = "{name}"
evidence = "evidence/{name}.json"
expect = "refused"
rule = "{rule}"
"""


class Scene:
    """The CA at work; each step gives the id of a decision."""

    def __init__(self, directory: Path) -> None:
        self.world = w.World.create(directory)
        self.world.kbs = ec.generate_private_key(ec.SECP384R1())
        self.store: Store = self.world.new_store()
        self.enroller: Enroller = self.world.enroller(self.store)

    def genuine(self, tpm: w.SoftTpm) -> str:
        """A TPM that gets its certificates."""
        w.issue(self.world, self.enroller, tpm)
        with self.store.read() as tx:
            return next(row.id for row in tx.decisions.latest() if row.stage == "enroll")

    def refused(self, tpm: w.SoftTpm, boot: w.Boot) -> tuple[str, str]:
        """A TPM that gets none: the decision, and the rule."""
        try:
            self.enroller.enroll(self.world.body(self.enroller.new_nonce().nonce, tpm, boot))
        except Refused as refusal:
            return refusal.decision_id, refusal.rule
        raise AssertionError("admitted")

    def all_refused(self, known: w.SoftTpm) -> Iterator[tuple[str, str, str]]:
        """Name, decision and rule of each that is to stay refused."""
        stranger = w.SoftTpm()
        other = ec.generate_private_key(ec.SECP384R1())
        boots = (
            ("unlisted-key-broker", stranger, w.Boot(kbs=other, resource="default/vtpm/a")),
            ("foreign-resource", stranger, w.Boot(resource="default/secrets/b")),
            ("provisioned-secret", stranger, w.Boot(origin="provisioned", resource="default/vtpm/b")),
            ("cloned-tpm", known, w.Boot(resource="default/vtpm/c")),
        )
        for i, (name, tpm, boot) in enumerate(boots):
            # A secret of its own, so that nothing but the one rule refuses it.
            yield name, *self.refused(tpm, replace(boot, secret=bytes([i]) * 32))
        genuine, pages = self.world.launch, [(0, b"an SVSM that nobody has reviewed".ljust(4096, b"\x00"))]
        self.world.launch = self.world.platform.launch(pages)
        boot = w.Boot(resource="default/vtpm/d", secret=b"\xff" * 32)
        yield "unreviewed-svsm", *self.refused(stranger, boot)
        self.world.launch = genuine


def document(scene: Scene, refused: list[tuple[str, str]]) -> str:
    """The text of the policy."""
    members = EcJwk.from_key(scene.world.kbs.public_key()).members()
    return DOCUMENT.format(
        release_policy="00" * 32,
        jwk=", ".join(f'{name} = "{value}"' for name, value in members.items()),
        launch=launch_entry(
            "example-svsm", scene.world.launch.measurement, ("verifies-grants", "reports-state")
        ),
        platform=platform_entry(),
        refused="\n".join(REFUSED.format(name=name, rule=rule) for name, rule in refused),
    )


def main() -> None:
    """Make the folder."""
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder))
        text = document(scene, [])
        scene.world.apply(scene.store, text)
        tpm = w.SoftTpm()
        made = [("genuine", scene.genuine(tpm), ""), *scene.all_refused(tpm)]
        shutil.rmtree(HERE, ignore_errors=True)
        (HERE / "evidence").mkdir(parents=True)
        for name, decision, _rule in made:
            recorded = w.operate(scene.world, scene.store, "decision-record", id=decision)
            content = json.dumps(recorded, indent=1, sort_keys=True) + "\n"
            (HERE / "evidence" / f"{name}.json").write_text(content, encoding="ascii")
        (HERE / "policy.toml").write_text(
            document(scene, [(name, rule) for name, _decision, rule in made if rule]), encoding="ascii"
        )
        scene.store.close()
        scene.world.close()


if __name__ == "__main__":
    sys.exit(main())
