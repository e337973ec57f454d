"""A random history of a CA: what VMs and operators do to it for months, in the order that a seed chooses.

Nothing is played: enrolments go through the enroller, operators through the operations. `History.step` does one thing;
what came of each request is compared with the decision that was stored about it.
"""

import itertools
import json
import os
import random
import shutil
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import amd_guest
import enrollment_world as w
from cryptography.hazmat.primitives.asymmetric import ec
from policy_edits import written

from ca_service.enrollment import Enroller, Judge, Limits
from ca_service.enrollment.claim import spki_of
from ca_service.evidence.snp import Collateral
from ca_service.judgment import (
    BadRequest,
    Conflict,
    NotFound,
    Record,
    Refused,
    TooMany,
    Trace,
    Verdict,
    VtpmCaError,
)
from ca_service.keys import load_authority, load_root, prepare_issuing
from ca_service.operations.backup import make_backup, restore
from ca_service.operations.kept import keep_state
from ca_service.policy import UNSAFE_RULES
from ca_service.store import Store
from vtpm.snp import Platform, SimulatedChain
from vtpm.wire.jwk import EcJwk
from vtpm.wire.report import Product
from vtpm.wire.runtime_data import StoreStatement

SECOND = ec.derive_private_key(0x5EC, ec.SECP384R1())
VERIFIER = ec.derive_private_key(0xEA5, ec.SECP256R1())
NOBODY = ec.derive_private_key(0x0B0D, ec.SECP384R1())
TPMS = 5
RESOURCES = ("default/vtpm/a", "default/vtpm/b", "default/pool/c", "default/vtpm/d", "x/vtpm/e")
BOUNDLESS = Limits(instance_enrolments=10**6, refusals_at_once=10**6)


def prepare(ceremony: w.World, directory: Path) -> w.World:
    """A copy of a CA with a second generation of every issuing CA, and a second platform, of Genoa."""
    shutil.copytree(ceremony.directory, directory)
    ca = directory / "ca"
    root = load_root(ca, w.PASSPHRASE)
    roles = ("ek", "devid", "ephemeral")
    prepare_issuing(ca, root, roles, passphrase=w.PASSPHRASE, clock=lambda: w.START, entropy=os.urandom)
    Platform.create(directory / "genoa", Product.GENOA, clock=lambda: w.START)
    return w.World(directory, load_authority(ca, w.PASSPHRASE))


def documents(world: w.World) -> list[str]:
    """Policies that an operator may put in force one after the other; the first one admits most."""
    base = tomllib.loads(amd_guest.policy(world, volatile=True))
    ours, launch, platform = base["kbs"][0], base["launch"][0], base["platform"][0]
    ours["resource"].append({"pattern": "default/pool/*", "shared": True})
    launch["products"] = ["Milan", "Genoa"]
    second = ours | {"id": "second-kbs", "origins": ["kbs-generated", "provisioned"]}
    second["key"] = [{"jwk": EcJwk.from_key(SECOND.public_key()).members()}]
    second["resource"] = [{"pattern": "*/vtpm/*"}]
    base["kbs"] = [ours, second]
    verifier = {"jwk": EcJwk.from_key(VERIFIER.public_key()).members()}
    fresh = platform | {"name": "fresh", "crl_max_age_days": 30}
    fresh["unconstrained"] = [word for word in platform["unconstrained"] if word != "crl-age"]
    listed = {
        "launch": [launch | {"name": "again", "platform": "fresh"}, launch],
        "platform": [platform, fresh],
    }
    others = [
        {},
        {"kbs": [ours | {"status": "suspended"}, second]},
        {"kbs": [second]},
        {"kbs": [ours | {"valid_to": w.START.replace(year=2027)}, second]},
        {"kbs": [ours | {"ear": {"key": [verifier], "max_age_s": 60}}, second]},
        {"grant": {"max_age_s": 10}},
        {"launch": [launch | {"platform": "fresh"}], "platform": [platform, fresh]},
        listed,
        {"launch": [launch | {"capabilities": ["oracle-free"]}]},
        {"tpm": base["tpm"] | {"iak_profile": "iak-webauthn"}},
        {"store": {"formats": ["cocoonfs/2"]}},
        {"ephemeral": {"days": 1, "volatile_stores": True}},
        *({"unsafe": [{"name": name, "gives_up": "a rule"}]} for name in sorted(UNSAFE_RULES)),
    ]
    return [written(base | other) for other in others]


@dataclass
class Pending:
    """A challenge that waits for its answer."""

    tpm: w.SoftTpm
    reply: bytes


@dataclass
class History:
    """A CA in a directory of its own, on any database, and everything that happens to it.

    Attributes:
        world: made by `prepare`; the history moves its time.
        store: the database.
        tpms: gives the TPM of a number.
        chance: chooses.
        done: how often each kind of step was done, and how requests came out.
    """

    world: w.World
    store: Store
    tpms: Callable[[int], w.SoftTpm]
    chance: random.Random
    done: Counter[str] = field(default_factory=Counter)
    collateral: Collateral = field(default_factory=Collateral)

    def __post_init__(self) -> None:
        self._documents = documents(self.world)
        self._pending: list[Pending] = []
        self._counters = itertools.count(1)
        self._lists = itertools.count(1)
        self._backups = itertools.count(1)
        self._chain = SimulatedChain.shipped(Product.GENOA)
        pages = [(0x1000 * i, bytes([i]) * 4096) for i in range(2)]
        self._milan = self.world.launch
        self._genoa = Platform.load(self.world.directory / "genoa").launch(pages)
        self._stranger = self.world.platform.launch([(0, b"x" * 4096)])
        self.world.apply(self.store, self._documents[0])
        self._open()

    def _open(self) -> None:
        world = self.world
        judge = Judge.of(world.authority.ca_id, world.authority.mode, lambda: self.collateral)
        made = world.enroller(self.store, judge=judge)
        self.enroller = Enroller(replace(made.desk, limits=BOUNDLESS))
        self.enroller.recover()

    def run(self, steps: int) -> None:
        """Do so many things."""
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        """Do one thing."""
        kinds = {
            self.enrol: 40,
            self.answer: 12,
            self.apply: 8,
            self.operate: 8,
            self.wait: 12,
            self.new_list: 3,
            self.restore: 1,
        }
        (kind,) = self.chance.choices(list(kinds), list(kinds.values()))
        self.done[kind.__name__] += 1
        kind()

    # -- what VMs do ---------------------------------------------------------------------------------------------

    def enrol(self) -> None:
        """One VM enrols; most of them go on to the end at once."""
        world, chance = self.world, self.chance
        world.launch = chance.choice([self._milan] * 14 + [self._genoa] * 5 + [self._stranger])
        tpm, boot = self._who()
        asked = self._request(tpm, boot)
        self.world.launch = self._milan
        try:
            reply = self.enroller.enroll(w.encode(asked))
        except (Refused, BadRequest, TooMany) as error:
            self._check(error)
            return
        self.done[f"enrol {reply.status}"] += 1
        if reply.status == 201:
            self._pending.append(Pending(tpm, reply.body))
            if chance.random() < 0.6:
                self.answer()

    def _who(self) -> tuple[w.SoftTpm, w.Boot]:
        chance = self.chance
        # A TPM lives where it always did, as a rule, with the secret and the salt of that place.
        number = chance.randrange(TPMS)
        place = number if chance.random() < 0.8 else chance.randrange(TPMS)
        secret = place if chance.random() < 0.9 else chance.randrange(TPMS)
        counter = next(self._counters)
        if chance.random() < 0.1:
            counter = max(1, counter - chance.randrange(20))
        boot = w.Boot(
            resource=RESOURCES[place],
            secret=bytes([secret]) * 32,
            salt=bytes([place]) * 16,
            counter=counter,
            kbs=chance.choice([None] * 16 + [SECOND, SECOND, NOBODY]),
            origin=chance.choice(["kbs-generated"] * 12 + ["provisioned"]),
            certify=chance.random() < 0.8,
            vmpl=int(chance.random() < 0.03),
        )
        if chance.random() < 0.1:
            age = chance.choice([9, 11, 3600, 3601])
            boot = replace(boot, change_claims=lambda claims: replace(claims, iat=claims.iat - age))
        if chance.random() < 0.1:
            boot = replace(boot, change=volatile)
        return self.tpms(number), boot

    def _request(self, tpm: w.SoftTpm, boot: w.Boot) -> object:
        chance = self.chance
        if chance.random() < 0.15:
            profile = chance.choice(amd_guest.PROFILES)
            request = amd_guest.Guest(self.world, self.enroller, tpm, boot).request(profile)
        else:
            request = self.world.request(self.enroller.new_nonce().nonce, tpm, boot)
        if chance.random() < 0.03:
            cut = replace(request.evidence, certificates=None)
            request = replace(request, evidence=cut)
        return request

    def answer(self) -> None:
        """The newest or any challenge is answered, sometimes wrong, sometimes too late or twice."""
        if not self._pending:
            return
        chance = self.chance
        pending = self._pending[-1] if chance.random() < 0.7 else chance.choice(self._pending)
        enrolment, body = w.answer(pending.tpm, pending.reply)
        if chance.random() < 0.1:
            body = json.dumps(
                {"secrets": ["AAAA" * 10 + "AAA" for _ in json.loads(body)["secrets"]]}
            ).encode()
        elif chance.random() < 0.9:
            self._pending.remove(pending)
        try:
            self.enroller.activate(enrolment, body)
        except VtpmCaError as error:
            self._check(error)
        else:
            self.done["issued"] += 1

    def _check(self, error: VtpmCaError) -> None:
        """A refusal names its decision, and the rule that the decision names."""
        if not isinstance(error, Refused):
            self.done[f"{type(error).__name__} {error.code}"] += 1
            return
        self.done[f"refused {error.rule}"] += 1
        if error.decision_id and error.rule not in ("activation.unexpired", "activation.open"):
            with self.store.read() as tx:
                row = tx.decisions.get(error.decision_id)
            assert row is not None
            if not row.admitted:
                assert error.rule == row.rule

    # -- what operators do -----------------------------------------------------------------------------------------

    def apply(self) -> None:
        """Another policy comes into force."""
        chance = self.chance
        index = 0 if chance.random() < 0.4 else chance.randrange(len(self._documents))
        self.world.apply(self.store, self._documents[index])

    def operate(self) -> None:
        """Resets, revocations, blocked keys, rollovers."""
        chance = self.chance
        kind = chance.choice(["reset"] * 3 + ["unblock"] * 4 + ["revoke", "block", "activate", "taint"])
        name, arguments = getattr(self, f"_{kind}")()
        try:
            w.operate(self.world, self.store, name, **arguments)
        except (NotFound, Conflict, BadRequest) as error:
            self.done[f"{kind}: {error.code}"] += 1
        else:
            self.done[kind] += 1

    def _reset(self) -> tuple[str, dict]:
        place = self.chance.randrange(TPMS)
        kbs = self.chance.choice(["org-kbs", "org-kbs", "second-kbs"])
        salt = {"salt": (bytes([place]) * 16).hex()} if "pool" in RESOURCES[place] else {}
        return "instance-reset", {"kbs": kbs, "resource": RESOURCES[place], "yes": True, **salt}

    def _revoke(self) -> tuple[str, dict]:
        with self.store.read() as tx:
            serials = [row.serial for row in tx.certificates.latest()]
        return "cert-revoke", {"serial": self.chance.choice([*serials, "00"]), "yes": True}

    def _block(self) -> tuple[str, dict]:
        tpm = self.tpms(self.chance.randrange(TPMS))
        return "key-block", {"digest": spki_of(tpm.iak.public), "cause": "found elsewhere"}

    def _unblock(self) -> tuple[str, dict]:
        return "key-unblock", {"digest": self._block()[1]["digest"]}

    def _activate(self) -> tuple[str, dict]:
        generation = self.chance.choice([1, 2])
        return "issuer-activate", {"roles": ["ek", "devid", "ephemeral"], "generation": generation}

    def _taint(self) -> tuple[str, dict]:
        return "issuer-taint", {"roles": ["ek", "devid", "ephemeral"]}

    def wait(self) -> None:
        """Time passes: mostly minutes, sometimes what ends certificates, grants and floors."""
        step = self.chance.choice(
            [{"seconds": 1}, {"minutes": 4}, {"minutes": 4}, {"minutes": 11}, {"days": 2}]
        )
        self.world.later(**step)

    def new_list(self) -> None:
        """The operator keeps another list of AMD's; a late one revokes."""
        number = next(self._lists)
        revoked = [self._chain.ask.serial_number] if number > 3 and self.chance.random() < 0.05 else []
        made = self.world.time.replace(microsecond=0)
        found = Collateral.of_file(self._chain.crl(revoked, number=number, this_update=made))
        assert found is not None
        self.collateral += found

    def restore(self) -> None:
        """The database of now is exchanged for a backup that was made a moment ago; a new epoch begins."""
        if not self.world.url.startswith("sqlite"):
            return
        authority = self.world.authority
        keep_state(authority, self.store)
        file = self.world.directory / f"backup-{next(self._backups)}.sqlite3"
        make_backup(authority, self.store, file, self.world.time)
        self.store.close()
        restore(authority, self.world.url, file, at=self.world.time, entropy=os.urandom, limits=BOUNDLESS)
        self.store = self.world.open_store()
        self._pending.clear()
        self._open()


def volatile(data):
    statement = StoreStatement("volatile", "none", b"", "this-boot", data.store.key_id, 0, b"")
    return replace(data, store=statement)


def traces(store: Store) -> Iterator[tuple[object, Trace]]:
    """Every stored decision with its trace."""
    with store.read() as tx:
        rows = tx.decisions.latest(10**6)
    for row in rows:
        yield row, Record.parse(row.trace).trace


def check_traces(found: list[tuple[object, Trace]]) -> None:
    """Each names one first failing rule, each rule stands once in it, and all of them keep one order of rules."""
    before: dict[tuple[str, str], str] = {}
    for row, trace in found:
        rules = [finding.rule for finding in trace.findings]
        assert len(rules) == len(set(rules)), row.id
        failing = [f.rule for f in trace.findings if f.verdict is Verdict.FAILED]
        assert bool(row.admitted) == (not failing)
        assert row.rule == next(iter(failing), "")
        for pair in itertools.combinations(rules, 2):
            before.setdefault(pair, row.id)
    wrong = [pair for pair in before if pair[::-1] in before]
    assert not wrong, wrong[:3]
