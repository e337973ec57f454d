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

from ca_service.export.quote import Quote, verify_quote
from ca_service.keys import load_root
from vtpm.tpm import GuestGateway, Swtpm, activate, certify_idevid, manufacture, properties, write_certificate
from vtpm.wire.enrollment import Certify
from vtpm.wire.runtime_data import TpmStatement
from vtpm.wire.templates import Role, template

NONCE = hashlib.sha256(b"a nonce of the relying party").digest()
IAK = "0x81020001"


@dataclass(frozen=True)
class RealTpm:
    """A swtpm in the place of `soft_tpm.SoftTpm`."""

    swtpm: Swtpm
    keys: object

    @classmethod
    def made(cls, stack, eks=("L-2",), iak="H-3", idevid="H-3"):
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
            [tool, "-T", self.tcti, *map(str, words)], cwd=self.folder, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def quote(self, pcrs="sha256:0,1,2,7", nonce=NONCE, key=IAK, hash_="sha384", name="q", extra=()):
        files = [self.folder / f"{name}.{end}" for end in ("msg", "sig", "pcr")]
        places = ("-m", files[0], "-s", files[1], "-o", files[2])
        self.run("tpm2_quote", "-c", key, "-l", pcrs, "-q", nonce.hex(), "-g", hash_, *places, *extra)
        return Quote(*(file.read_bytes() for file in files))


@dataclass(frozen=True)
class Scene:
    """The CA and its lists, as `relying_stage` has them; the TPM; tools on it; and one quote of it."""

    stage: Stage
    tpm: RealTpm
    tools: Tools
    quote: Quote

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
        world.apply(store, world.policy().replace('ek = ["L-1"]', 'ek = ["L-1", "L-2"]'))
        enroller = world.enroller(store)
        tpm = RealTpm.made(stack)
        ek, iak, idevid = w.ders(w.issue(world, enroller, tpm))
        tpm.store(ek, iak, idevid)
        gateway = stack.enter_context(GuestGateway(tpm.swtpm))
        tools = Tools(gateway.tcti, folder)
        made = Stage(world, load_root(folder / "ca", w.PASSPHRASE), tpm, ek, iak, idevid)
        tools.run("tpm2_pcrextend", f"7:sha256={'ab' * 32}")
        yield Scene(made, tpm, tools, tools.quote())


def sized(data):
    return struct.pack(">H", len(data)) + data
