"""What stands around keylime in its tests: a CA of ours, TPMs that it has certified, and the store that it exports.

The CA works in the test's own process and the TPMs are real ones (swtpm), with their certificates in NV memory and
behind the gateway that a guest uses. Only the processor's report is simulated.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import enrollment_world as w
import operations_stage as stage
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from forked import SCRIPT, Forks
from forked_programs import Programs

from ca_service.export import export_keylime, trusted_issuers
from ca_service.keys import held_root_lists, load_authority, load_public, load_root, prepare_issuing
from vtpm.tpm import (
    GuestGateway,
    Swtpm,
    activate,
    certify_idevid,
    manufacture,
    properties,
    verify_loaded,
    write_certificate,
)
from vtpm.wire.enrollment import CertificatesReply, Certify
from vtpm.wire.runtime_data import KeyStatement, TpmStatement
from vtpm.wire.templates import Role, template

EK_CHECK = "from ca_service.export.ek_check import main; main()"
"""What ``vtpm-ca-ek-check`` runs."""


def _number(der: bytes) -> int:
    extensions = x509.load_der_x509_crl(der).extensions
    return extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


class RealTpm:
    """A swtpm with keys of these templates, that enrols as `soft_tpm.SoftTpm` does, and serves a guest."""

    def __init__(self, eks: tuple[str, ...] = ("L-1",), iak: str = "H-3", idevid: str = "H-3") -> None:
        self._power(None)
        chosen = (template(Role.IAK, iak), template(Role.IDEVID, idevid))
        self.keys = manufacture(self._tpm, [template(Role.EK, ek) for ek in eks], *chosen)

    def _power(self, state: bytes | None) -> None:
        self._tpm = Swtpm().start()
        try:
            self._tpm.power_on(state)
            self.gateway = GuestGateway(self._tpm).start()
        except BaseException:
            self._tpm.kill()
            raise

    @property
    def ek(self) -> KeyStatement:
        """The first one."""
        return self.keys.eks[0]

    def statement(self) -> TpmStatement:
        keys, facts = self.keys, properties(self._tpm)
        named = (facts.manufacturer, facts.vendor, facts.firmware, facts.spec)
        return TpmStatement(keys.eks, keys.iak, keys.idevid, *named, self._tpm.origin)

    def certify(self, qualifier: bytes) -> Certify:
        return Certify(*certify_idevid(self._tpm, self.keys, qualifier))

    def activate(self, credential_blob: bytes, secret: bytes, index: int = 0) -> bytes:
        return activate(self._tpm, self.keys, index, credential_blob, secret)

    def keep(self, reply: CertificatesReply) -> None:
        """Write the certificates into NV memory, where keylime's agent looks for that of the EK."""
        entries = [(Role.EK, ek) for ek in reply.ek]
        entries += [(Role.IAK, reply.iak), (Role.IDEVID, reply.idevid)]
        for role, entry in entries:
            write_certificate(self._tpm, template(role, entry.template).nv_index, entry.certificate)

    def reboot(self) -> None:
        """Off in order, and on again from the state that was kept."""
        state = self._tpm.take_state()
        self.close()
        self._power(state)
        verify_loaded(self._tpm, self.keys)

    def close(self) -> None:
        self.gateway.stop()
        self._tpm.stop()


class Guest:
    """A VM that the CA knows: its TPM (another guest's, if one is given), and what it has been given."""

    def __init__(self, site: "Site", number: int, tpm: RealTpm | None = None) -> None:
        self._site = site
        self._boot = 0
        self._resource, self._secret = f"default/vtpm/keylime-{number}", bytes([number]) * 32
        self.tpm = tpm or RealTpm()
        self.certificates: list[bytes] = []
        self.serials: list[str] = []
        self.enrol()

    def enrol(self) -> list[bytes]:
        """Enrol, once more if it did before; the certificates go into the TPM."""
        self._boot += 1
        boot = w.Boot(
            resource=self._resource, secret=self._secret, counter=self._boot, salt=self._secret[:16]
        )
        reply = w.issue(self._site.world, self._site.enroller, self.tpm, boot)
        parsed = CertificatesReply.parse(reply)
        self.certificates = w.ders(reply)
        self.serials = [f"{certificate.serial_number:x}" for certificate in w.certificates(reply)]
        self.tpm.keep(parsed)
        return self.certificates


class Site:
    """A CA, its guests, and the ``tpm_cert_store`` that it exports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "tpm_cert_store"
        stage.make(folder)
        self._open()
        self._database = w.open_store(self.world.url)
        self.world.apply(self._database, self.world.policy())
        self.enroller = self.world.enroller(self._database)
        self._guests: list[Guest] = []
        self.export()

    def _open(self) -> None:
        self.ca = self.folder / "ca"
        self.world = stage.world_in(self.folder, load_authority(self.ca, w.PASSPHRASE))

    def operate(self, name: str, **arguments: object):
        """Do what an operator does."""
        return w.operate(self.world, self._database, name, **arguments)

    def export(self, store: Path | None = None) -> None:
        """Bring the store up to date, or fill another one."""
        trusted = trusted_issuers(load_public(self.ca), self.operate("issuer-certificates")["trusted"])
        export_keylime(store or self.store, trusted, None)

    def roll_over(self) -> None:
        """A new generation of issuing CAs, in the order of docs/rollover.md."""
        self.operate("crl-publish")
        prepare_issuing(
            self.ca,
            load_root(self.ca, w.PASSPHRASE),
            passphrase=w.PASSPHRASE,
            clock=stage.now,
            entropy=os.urandom,
        )
        self.enroller.desk.liveness.close()
        self._open()
        self.enroller = self.world.enroller(self._database)
        newest = max(ca.generation for ca in self.world.authority.issuers)
        fresh = [ca.skid for ca in self.world.authority.issuers if ca.generation == newest]
        self.operate("issuer-announce", skids=fresh)
        self.export()
        self.operate("issuer-activate")

    def guest(self, tpm: RealTpm | None = None) -> Guest:
        """A new VM with its certificates; `tpm` is one that stays with whoever made it."""
        guest = Guest(self, len(self._guests) + 1, tpm)
        self._guests.append(guest)
        return guest

    def ek_check(self, folder: Path, programs: Programs, forks: Forks) -> dict[str, str]:
        """Our check, and its configuration with the present lists: what the tenant's environment must say for both."""
        lists = folder / "crls"
        lists.mkdir(parents=True)
        with self._database.read() as tx:
            rows = [tx.crls.latest(issuer.skid) for issuer in self.world.authority.issuers]
        held = [row.der for row in rows if row is not None]
        held += held_root_lists(self.ca, _number)
        for number, der in enumerate(held):
            (lists / f"{number}.crl").write_bytes(der)
        (folder / "root.pem").write_bytes(load_public(self.ca).root.public_bytes(Encoding.PEM))
        configuration = folder / "ek-check.toml"
        configuration.write_text(f'root = "root.pem"\nissuers = "{self.store}"\ncrls = "crls"\n')
        script = folder / "vtpm-ca-ek-check"
        programs.add(script, forks, SCRIPT, EK_CHECK)
        return {
            "KEYLIME_TENANT_EK_CHECK_SCRIPT": str(script),
            "VTPM_CA_EK_CHECK_CONFIG": str(configuration),
        }

    @contextmanager
    def trusting(self, other: Path | None) -> Iterator[None]:
        """Let keylime find the files of another store in place of ours, or none."""
        aside = self.store.with_name("aside")
        self.store.rename(aside)
        try:
            if other is None:
                self.store.mkdir()
            else:
                shutil.copytree(other, self.store)
            yield
        finally:
            shutil.rmtree(self.store)
            aside.rename(self.store)

    def close(self) -> None:
        # Harmless for one that is closed already.
        for guest in self._guests:
            guest.tpm.close()
        self.enroller.desk.liveness.close()
        self._database.close()
