"""Make one folder of this directory with a released version of the CA, by that release's own code.

Run it with the interpreter of the development environment on an unpacked tree of the release, once per release::

    git archive 9e89d8e | tar -x -C TREE
    PYTHONPATH=TREE:TREE/tests/support python tests/vectors/databases/make.py 0.3 9e89d8e

What it makes is a CA that has seen everything that schema 0001 can hold: certificates that are good, revoked,
abandoned and only intended, an instance that was reset, challenges that nobody answered, refusals and alarms. Keys are
random, so a second run gives other bytes: the folders are made once and then kept.
"""

import base64
import hashlib
import json
import lzma
import os
import shutil
import sqlite3
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import enrollment_world as w
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ca_service.enrollment import Limits
from ca_service.judgment import Refused
from ca_service.keys import CeremonyConfig
from ca_service.operations import OperationContext, database_url, init, perform
from ca_service.store import open_store
from vtpm.snp import Platform
from vtpm.wire.enrollment import CertificatesReply
from vtpm.wire.report import Product

HERE = Path(__file__).parent
CONFIG = """\
mode = "simulation"
organization = "Tests"
publication_url = "http://ca.test"
ca_id = "old-ca"
"""
ONE_LIST = "[publication]\nshards = 1\n"
"""Since release 0.4 an issuing CA has 32 lists, and a folder of this directory shall not have a hundred files."""


class Disturbed(Exception):
    """What the CA meets in the middle of an issuance."""


def _pem(key: object) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


class Scene:
    """The CA at work."""

    def __init__(self, directory: Path, config: str) -> None:
        init(
            directory / "ca",
            CeremonyConfig.from_toml(config),
            w.PASSPHRASE,
            clock=lambda: w.START,
            entropy=os.urandom,
        )
        Platform.create(directory / "platform", Product.MILAN, clock=lambda: w.START)
        self.world = w.World(directory)
        self.world.url = database_url(directory / "ca")
        self.store = open_store(self.world.url)
        self.world.apply(self.store, self.world.policy())
        self.enroller = self.world.enroller(self.store)
        self.tpms: dict[str, dict[str, object]] = {}

    def boot(self, guest: str, counter: int = 1) -> w.Boot:
        secret = hashlib.sha256(guest.encode()).digest()
        return w.Boot(resource=f"default/vtpm/{guest}", secret=secret, counter=counter)

    def enrol(self, guest: str, *, name: str = "", counter: int = 1) -> w.SoftTpm:
        """A TPM gets certificates; it is written down with its keys."""
        self.world.later(minutes=1)
        tpm = w.SoftTpm()
        reply = CertificatesReply.parse(w.issue(self.world, self.enroller, tpm, self.boot(guest, counter)))
        self.tpms[name or guest] = {
            "guest": guest,
            "counter": counter,
            "keys": {"ek": _pem(tpm._ek), "iak": _pem(tpm._iak), "idevid": _pem(tpm._idevid)},
            "certificates": [
                base64.b64encode(entry.certificate).decode() for entry in (*reply.ek, reply.iak, reply.idevid)
            ],
        }
        return tpm

    def refused(self, tpm: w.SoftTpm, boot: w.Boot) -> None:
        self.world.later(minutes=1)
        try:
            self.enroller.enroll(self.world.body(self.enroller.new_nonce().nonce, tpm, boot))
        except Refused:
            return
        raise AssertionError("was admitted")

    def disturbed(self, guest: str, fault: object) -> None:
        """An issuance that ends between intent and certificates."""
        self.world.later(minutes=1)
        enroller = self.world.enroller(self.store, fault)
        w.issue(self.world, enroller, w.SoftTpm(), self.boot(guest))

    def operate(self, name: str, **arguments: object) -> None:
        self.world.later(minutes=1)
        authority = self.world.authority
        perform(
            OperationContext(
                authority, lambda: authority, self.store, lambda: self.world.time, "alice", Limits()
            ),
            name,
            arguments,
        )

    def play(self) -> None:
        good = self.enrol("good", counter=5)
        self.enrol("revoked")
        serial = self._serials("revoked")[0]
        self.operate("cert-revoke", serial=serial, reason="keyCompromise", cause="made for a test", yes=True)
        self.enrol("reset", name="before-reset")
        self.operate("instance-reset", kbs="org-kbs", resource="default/vtpm/reset", cause="moved", yes=True)
        self.enrol("reset", name="after-reset")
        # Another broker's resource, an older state of a known TPM, a TPM where another one lives, and a copied TPM.
        self.refused(good, w.Boot(resource="elsewhere/vtpm/x"))
        self.refused(good, self.boot("good", counter=4))
        self.refused(w.SoftTpm(), self.boot("good", counter=9))
        self.refused(good, self.boot("copied"))
        self._wrong_answer()
        self.world.later(minutes=1)
        self.enroller.enroll(
            self.world.body(self.enroller.new_nonce().nonce, w.SoftTpm(), self.boot("unanswered"))
        )
        self._abandoned()
        self._killed()

    def _serials(self, name: str) -> list[str]:
        ders = [base64.b64decode(text) for text in self.tpms[name]["certificates"]]
        return [format(x509.load_der_x509_certificate(der).serial_number, "x") for der in ders]

    def _wrong_answer(self) -> None:
        self.world.later(minutes=1)
        tpm = w.SoftTpm()
        reply = self.enroller.enroll(
            self.world.body(self.enroller.new_nonce().nonce, tpm, self.boot("wrong"))
        )
        enrolment, answer = w.answer(tpm, reply.body)
        secrets = json.loads(answer)
        secrets["secrets"] = [
            base64.urlsafe_b64encode(bytes(32)).rstrip(b"=").decode() for _ in secrets["secrets"]
        ]
        try:
            self.enroller.activate(enrolment, json.dumps(secrets).encode())
        except Refused:
            return
        raise AssertionError("was believed")

    def _abandoned(self) -> None:
        def fault(point: str) -> None:
            if point.startswith("after signing"):
                raise Disturbed(point)

        try:
            self.disturbed("abandoned", fault)
        except Disturbed:
            return
        raise AssertionError("nothing went wrong")

    def _killed(self) -> None:
        """The intent of a process that died stays open."""
        child = os.fork()
        if not child:
            self.disturbed(
                "killed", lambda point: os._exit(9) if point.startswith("before signing") else None
            )
            os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 9


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _dump(database: Path, into: Path) -> None:
    """The database as SQL text, as sqlite3's `.dump` gives it; the evidence in it is long, so it is packed."""
    connection = sqlite3.connect(database)
    into.write_bytes(lzma.compress(("\n".join(connection.iterdump()) + "\n").encode(), preset=9))
    connection.close()


def main(version: str, commit: str) -> None:
    """Make the folder of one release."""
    target = HERE / version
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary) / "world"
        scene = Scene(work, CONFIG if version in {"0.1", "0.2", "0.3"} else CONFIG + ONE_LIST)
        scene.play()
        scene.store.close()
        shutil.rmtree(target, ignore_errors=True)
        for part in ("ca", "platform"):
            unwanted = shutil.ignore_patterns("*.sqlite3*", "run", "*.lock")
            shutil.copytree(work / part, target / part, ignore=unwanted)
        _dump(Path(scene.world.url.removeprefix("sqlite:///")), target / "database.sql.xz")
    manifest = {
        "warning": "WORTHLESS TEST KEYS: every private key here is public, and so is the passphrase. Trust nothing "
        "that they sign, and use none of them anywhere.",
        "release": version,
        "commit": commit,
        "made_by": "make.py in the folder above, on the tree of that commit",
        "passphrase": w.PASSPHRASE.decode(),
        "ends_at": (scene.world.time + timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "kbs_key": "P-384, private value 0xB0B",
        "tpms": scene.tpms,
        "sha256": _digests(target),
    }
    (target / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
