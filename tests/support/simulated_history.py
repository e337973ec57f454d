"""A CA with a history: a hundred decisions by a real enroller about ten TPMs, of two brokers and several builds.

What was sent is kept beside, so that a test knows without asking the CA which decisions a draft must change.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import enrollment_world as w
from cryptography.hazmat.primitives.asymmetric import ec

from ca_service.judgment import Refused
from vtpm.lab.allowlist import launch_entry, platform_entry
from vtpm.wire.jwk import EcJwk

CAPABILITIES = ("verifies-grants", "reports-state")
BUILDS = ("good", "bad", "stray")
"""Builds of the SVSM; no policy of the history lists the last one."""

SOFT_KEYS = {
    name: ec.derive_private_key(number, ec.SECP384R1()) for number, name in enumerate(("own", "partner"), 77)
}


@dataclass(frozen=True)
class Sent:
    """One enrolment: when, by which TPM, of which build and broker, and the decision that it got."""

    tpm: int
    build: str
    kbs: str
    resource: str
    decision: str
    rule: str


def document(
    world, launches: dict, *, brokers=("own", "partner"), builds=("good", "bad"), **parts: str
) -> str:
    """The policy of the history, or a draft that lists other brokers and builds.

    `parts` replaces text: `platform` the platform entry, `kbs_own` and `kbs_partner` members of a broker.
    """
    kbs = "".join(
        f"""
[[kbs]]
id = "{name}"
origins = ["kbs-generated"]
unconstrained = ["release-policy"]
{parts.get(f"kbs_{name}", 'status = "trusted"')}
[[kbs.key]]
jwk = {{ {", ".join(f'{k} = "{v}"' for k, v in EcJwk.from_key(SOFT_KEYS[name].public_key()).members().items())} }}
[[kbs.resource]]
pattern = "{name}/vtpm/*"
"""
        for name in brokers
    )
    listed = "".join(launch_entry(name, launches[name].measurement, CAPABILITIES) for name in builds)
    return f"""
schema = 1
[grant]
max_age_s = {parts.get("grant", "3600")}
{kbs}
{listed}
[tpm]
ek = ["L-1"]
iak = ["H-3"]
idevid = ["H-3"]
[store]
formats = ["cocoonfs/1"]
{parts.get("platform", platform_entry())}
"""


@dataclass
class History:
    """The CA, its database, and what was sent to it."""

    world: w.World
    store: object
    launches: dict
    sent: list[Sent]
    numbers: dict[int, int]

    def document(self, **options) -> str:
        return document(self.world, self.launches, **options)

    def newest(self) -> dict[int, Sent]:
        """The last admitted enrolment of each TPM that has certificates, by the TPM's number in the database."""
        return {self.numbers[sent.tpm]: sent for sent in self.sent if not sent.rule}


@contextmanager
def history(ceremony, directory: Path, tpms) -> Iterator[History]:
    """A copy of a CA, with its history.

    TPM 0 to 5 are of the own broker, 6 to 9 of the partner. All enrol at first from the good build; 2, 3 and 6 stay
    with the bad one later, 4 comes back from it.
    """
    shutil.copytree(ceremony.directory, directory)
    world = w.World(directory, ceremony.authority)
    store = world.new_store()
    launches = {
        name: world.platform.launch([(0x1000, bytes([number]) * 4096)])
        for number, name in enumerate(BUILDS, 7)
    }
    made = History(world, store, launches, [], {})
    world.apply(store, made.document())
    enroller = world.enroller(store)
    try:
        for turn in range(10):
            for tpm in range(10):
                _enrol(made, enroller, tpms(tpm), tpm, turn)
        yield made
    finally:
        store.close()
        world.close()


def _build(tpm: int, turn: int) -> str:
    if turn == 5 and tpm % 2:
        return "stray"
    if tpm in (2, 3, 6) and turn > 6:
        return "bad"
    return "bad" if tpm == 4 and turn in (3, 4) else "good"


def _enrol(made: History, enroller, soft, tpm: int, turn: int) -> None:
    made.world.later(seconds=30)
    kbs, build = "own" if tpm < 6 else "partner", _build(tpm, turn)
    made.world.launch = made.launches[build]
    # Once a turn somebody asks for what its broker may not release.
    resource = f"{kbs}/vtpm/guest-{tpm}" if turn != 6 or tpm != 1 else "elsewhere/vtpm/guest"
    boot = w.Boot(resource, bytes([tpm + 1]) * 32, counter=turn + 1, kbs=SOFT_KEYS[kbs], certify=turn == 0)
    rule = ""
    try:
        w.issue(made.world, enroller, soft, boot)
    except Refused as refused:
        rule = refused.rule
    with made.store.read() as tx:
        (row,) = tx.decisions.latest(1)
        if tpm not in made.numbers:
            made.numbers[tpm] = tx.ledger.occupant(tx.ledger.instance(kbs, resource).id).id
    made.sent.append(Sent(tpm, build, kbs, resource, row.id, rule))
