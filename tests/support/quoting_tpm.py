"""A real TPM that a real CA has certified, and quotes of it by tpm2-tools; made once for all tests of quotes."""

import hashlib
import shutil
import struct
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import enrollment_world as w
from relying_stage import AT, Stage

from ca_service.export.quote import PcrValues, Quote, verify_quote
from ca_service.export.quote.pcrs import selection_of
from ca_service.keys import load_root
from vtpm.tpm import GuestGateway, Swtpm, activate, certify_idevid, manufacture, properties, write_certificate
from vtpm.wire.enrollment import Certify
from vtpm.wire.public_area import parse_public, qualified_name
from vtpm.wire.runtime_data import TpmStatement
from vtpm.wire.templates import Role, template, templates

NONCE = hashlib.sha256(b"a nonce of the relying party").digest()
IAK = "0x81020001"
PCRS = PcrValues({"sha256": {n: bytes([n]) * 32 for n in (0, 1, 7)}, "sha1": {9: bytes(20)}})


@dataclass(frozen=True)
class RealTpm:
    """A swtpm in the place of `soft_tpm.SoftTpm`."""

    swtpm: Swtpm
    keys: object

    @classmethod
    def made(cls, stack, eks=("L-1",), iak="H-3", idevid="H-3"):
        swtpm = stack.enter_context(Swtpm())
        swtpm.power_on(None)
        chosen = [template(Role.EK, one) for one in eks]
        return cls(swtpm, manufacture(swtpm, chosen, template(Role.IAK, iak), template(Role.IDEVID, idevid)))

    @property
    def ek(self):
        return self.keys.eks[0]

    def statement(self):
        found = properties(self.swtpm)
        keys = (self.keys.eks, self.keys.iak, self.keys.idevid)
        return TpmStatement(
            *keys, found.manufacturer, found.vendor, found.firmware, found.spec, "manufactured"
        )

    def certify(self, qualifier):
        return Certify(*certify_idevid(self.swtpm, self.keys, qualifier))

    def activate(self, credential_blob, secret, index=0):
        return activate(self.swtpm, self.keys, index, credential_blob, secret)

    def store(self, ek, iak, idevid):
        places = (
            (template(Role.EK, self.ek.template), ek),
            (template(Role.IAK, self.keys.iak.template), iak),
            (template(Role.IDEVID, self.keys.idevid.template), idevid),
        )
        for place, der in places:
            write_certificate(self.swtpm, place.nv_index, der)


@dataclass(frozen=True)
class Tools:
    """tpm2-tools on a TPM, in a folder of their own."""

    tcti: str
    folder: Path

    def run(self, tool, *words):
        done = subprocess.run(
            [tool, "-T", self.tcti, *map(str, words)],
            cwd=self.folder,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def quote(self, pcrs="sha256:0,1,2,7", nonce=NONCE, key=IAK, hash_="sha384", name="q", extra=()):
        files = [self.folder / f"{name}.{end}" for end in ("msg", "sig", "pcr")]
        places = ("-m", files[0], "-s", files[1], "-o", files[2])
        self.run("tpm2_quote", "-c", key, "-l", pcrs, "-q", nonce.hex(), "-g", hash_, *places, *extra)
        return Quote(*(file.read_bytes() for file in files))


@dataclass(frozen=True)
class SoftQuoter:
    """A TPM in Python whose IAK signs a quote with any flaw that is asked for."""

    tpm: w.SoftTpm
    certificates: tuple

    def attest(self, pcrs, **changes):
        area = parse_public(self.tpm.iak.public)
        hash_algorithm = changes.get("digest_by", area.scheme.hash_algorithm)
        selections = changes.get("selections", selection_of(pcrs.banks))
        values = {
            "magic": 0xFF544347,
            "type": 0x8018,
            "signer": qualified_name(self.tpm.iak.public),
            "extra": NONCE,
            "safe": 1,
            "firmware": int(w.FIRMWARE, 16),
            "digest": pcrs.digest(selections, hash_algorithm) or bytes(32),
            "tail": b"",
        } | changes
        return (
            struct.pack(">IH", values["magic"], values["type"])
            + sized(values["signer"])
            + sized(values["extra"])
            + struct.pack(">QIIBQ", 1000, 1, 0, values["safe"], values["firmware"])
            + struct.pack(">I", len(selections))
            + b"".join(
                struct.pack(">HB", one.hash_algorithm, 3)
                + sum(1 << n for n in one.pcrs).to_bytes(3, "little")
                for one in selections
            )
            + sized(values["digest"])
            + values["tail"]
        )

    def quote(self, pcrs=PCRS, **changes):
        attest = self.attest(pcrs, **changes)
        return Quote(attest, self.tpm._signature(attest), pcrs)

    @property
    def given(self):
        """The certificates, as arguments of `Scene.verify`."""
        return dict(zip(("ek", "iak", "idevid"), self.certificates, strict=True))


@dataclass(frozen=True)
class Scene:
    """The CA and its lists, as `relying_stage` has them; the TPM; tools on it; one quote of it; and soft TPMs."""

    stage: Stage
    tpm: RealTpm
    tools: Tools
    quote: Quote
    enrol: object

    def verify(self, quote=None, **changes):
        """The verdict; all three certificates are given unless they are left out."""
        values = {
            "nonce": NONCE,
            "iak": self.stage.iak,
            "ek": self.stage.ek,
            "idevid": self.stage.idevid,
            "trust": self.stage.trust(),
            "at": AT,
        }
        return verify_quote(quote or self.quote, **(values | changes))


@contextmanager
def scene(folder):
    assert shutil.which("tpm2_quote"), "tpm2-tools are not installed"
    world = w.World.create(folder, shards=1)
    with ExitStack() as stack:
        store = world.new_store()
        stack.callback(world.close)
        stack.callback(store.close)
        world.apply(store, _any_keys(world.policy()))
        enroller = world.enroller(store)
        tpm = RealTpm.made(stack)
        ek, iak, idevid = w.ders(w.issue(world, enroller, tpm))
        tpm.store(ek, iak, idevid)
        gateway = stack.enter_context(GuestGateway(tpm.swtpm))
        tools = Tools(gateway.tcti, folder)
        made = Stage(world, load_root(folder / "ca", w.PASSPHRASE), tpm, ek, iak, idevid)
        tools.run("tpm2_pcrextend", f"7:sha256={'ab' * 32}")
        enrolled = {}

        def enrol(iak):
            """A soft TPM with an IAK of this template, certified, whose keys can be made to sign anything."""
            if iak not in enrolled:
                tpm, secret = w.SoftTpm(("L-2",), iak, "H-2"), hashlib.sha256(iak.encode()).digest()
                boot = w.Boot(resource=f"default/vtpm/{iak.lower()}", secret=secret, salt=secret[:16])
                enrolled[iak] = SoftQuoter(tpm, tuple(w.ders(w.issue(world, enroller, tpm, boot))))
            return enrolled[iak]

        yield Scene(made, tpm, tools, tools.quote(), enrol)


def _any_keys(policy):
    for role, default in (("ek", "L-1"), ("iak", "H-3"), ("idevid", "H-3")):
        ids = ", ".join(f'"{one.id}"' for one in templates(Role(role)))
        policy = policy.replace(f'{role} = ["{default}"]', f"{role} = [{ids}]")
    return policy


def sized(data):
    return struct.pack(">H", len(data)) + data
