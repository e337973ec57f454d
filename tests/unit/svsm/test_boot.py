"""A boot with a real TPM and a real volume; host, key broker and CA are scripted."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
from tpm2_pytss import TPM2B_NV_PUBLIC, TPMS_NV_PUBLIC
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPMA_NV
from volumes import image, manifest

from vtpm.errors import UsageError, VtpmError
from vtpm.svsm.boot import Boot, BootConfig
from vtpm.svsm.build import Build
from vtpm.svsm.device import SvsmDevice
from vtpm.svsm.errors import BootRefused
from vtpm.svsm.events import Narrator
from vtpm.svsm.kbs_session import KbsSession
from vtpm.svsm.records import encode_keys
from vtpm.tpm import Swtpm, TpmGone, TpmIdentityError, TpmRefused, manufacture, read_certificate
from vtpm.volume import (
    CERTIFICATES,
    DEFAULT,
    TPM_KEYS,
    TPM_STATE,
    VolumeDamaged,
    VolumeKeyError,
    VolumeUnsupported,
    make_blank_disk,
    open_volume,
    read_state_blob,
    read_tpm,
    update_tpm,
)
from vtpm.volume.format.algorithms import cipher_named
from vtpm.wire.encoding import canonical
from vtpm.wire.enrollment import (
    CertificatesReply,
    Challenge,
    ChallengeReply,
    EnrollmentRequest,
    NonceReply,
)
from vtpm.wire.grant import key_id
from vtpm.wire.report import Report
from vtpm.wire.runtime_data import RuntimeData, report_data
from vtpm.wire.templates import Role, name, template

EK, IAK, IDEVID = 0x01C0000A, 0x01C90100, 0x01C90200


class Story(Narrator):
    """Keeps what the boot tells."""

    def __init__(self):
        self.steps = {}

    def say(self, step, ms=0.0, **detail):
        self.steps[step] = detail


class Ca:
    """Certifies whatever evidence says, once per TPM, as the real one does for a TPM that it knows."""

    def __init__(self, authority):
        self.authority = authority
        self.issued = {}
        self.requests = []
        self.answer = lambda reply: reply

    def call(self, method, path, body):
        if path == "/v1/nonces":
            return 201, canonical(NonceReply("n" * 43, "ca", "2026-11-23T10:00:00Z").to_json())
        assert (method, path) == ("POST", "/v1/enrollments")
        request = EnrollmentRequest.parse(body)
        self.requests.append(request)
        data = RuntimeData.parse(request.evidence.runtime_data)
        report = Report.parse(request.evidence.report)
        assert report.report_data == report_data(request.evidence.runtime_data)
        assert report.vmpl == 0
        tpm = data.tpm
        ek = tpm.eks[0].public
        if ek not in self.issued:
            self.issued[ek] = self.authority.certify(tpm.eks, tpm.iak, tpm.idevid)
        return 200, canonical(self.answer(self.issued[ek]).to_json())


class Host:
    """Broker and CA as the SVSM reaches them."""

    def __init__(self, broker, ca):
        self.attest = broker.attest
        self.call = ca.call


class Machine:
    """A disk, and boots from it."""

    def __init__(self, disk: Path, broker, ca, processor):
        self.disk = disk
        self.broker = broker
        self.ca = ca
        self.processor = processor
        self.steps = {}
        self.bystanders = children()
        make_blank_disk(disk, os.urandom(32))

    def boot(self, *, enrol=True, ek=("L-2",)):
        """As far as the guest's start."""
        story = Story()
        self.steps = story.steps
        config = BootConfig(self.disk, ek, "H-3", enrol, Build.STANDARD)
        return Boot(config, self.processor, Host(self.broker, self.ca), story).run()

    def cycle(self, **options):
        """On and, in order, off again."""
        self.boot(**options).power_off()
        return self.steps

    def refuses(self, kind, rule, **options):
        """A boot that ends in an error and leaves the disk byte for byte as it was, unlocked, and no process."""
        before = self.disk.read_bytes()
        error = self.fails(kind, rule, **options)
        assert self.disk.read_bytes() == before
        return error

    def fails(self, kind, rule, **options):
        with pytest.raises(kind) as error:
            self.boot(**options)
        assert error.value.rule == rule
        assert children() <= self.bystanders
        return error.value

    def volume(self):
        return open_volume(self.disk, self.broker.secret)

    @property
    def certificates(self):
        with self.volume() as volume:
            return volume.read(CERTIFICATES)


def children():
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= set((task / "children").read_text().split())
    return found


@pytest.fixture
def ca(authority):
    return Ca(authority)


@pytest.fixture
def machine(tmp_path, broker, ca, processor):
    return Machine(tmp_path / "disk", broker, ca, processor)


@pytest.fixture(scope="module")
def other():
    """State and keys of another TPM with the same templates.

    Its guest has set endorsementAuth, so this TPM itself makes no key for comparison any more.
    """
    with Swtpm() as tpm:
        tpm.power_on(None)
        keys = manufacture(
            tpm, [template(Role.EK, "L-2")], template(Role.IAK, "H-3"), template(Role.IDEVID, "H-3")
        )
        with tpm.esapi("claiming the endorsement hierarchy") as esapi:
            esapi.hierarchy_change_auth(ESYS_TR.ENDORSEMENT, b"a guest's secret")
        return tpm.take_state(), keys


# -- boots that succeed ----------------------------------------------------------------------------------------


def test_first_boot_and_second(machine, ca):
    launched = machine.boot()
    told = machine.steps
    assert list(told) == ["kbs", "volume", "tpm", "enrol", "store"]
    assert told["volume"]["created"] == "this-boot"
    assert told["tpm"]["origin"] == "manufactured"
    reply = next(iter(ca.issued.values()))
    held = [read_certificate(launched.tpm, index) for index in (EK, IAK, IDEVID)]
    assert held == [reply.ek[0].certificate, reply.iak.certificate, reply.idevid.certificate]
    assert ca.requests[0].certify is not None
    launched.power_off()

    again = machine.boot()
    assert machine.steps["tpm"]["origin"] == "loaded"
    assert machine.steps["tpm"]["ek_name"] == told["tpm"]["ek_name"]
    assert machine.steps["store"]["written"] == machine.steps["store"]["refused"] == ""
    assert machine.steps["store"]["counter"] == machine.steps["volume"]["counter"]
    assert ca.requests[1].certify is None
    assert [read_certificate(again.tpm, index) for index in (EK, IAK, IDEVID)] == held
    again.power_off()
    assert children() <= machine.bystanders


def test_evidence_says_what_happened_to_the_store(machine, ca):
    machine.cycle()
    machine.cycle()
    first, second = (RuntimeData.parse(request.evidence.runtime_data) for request in ca.requests)
    assert (first.store.created, first.tpm.origin) == ("this-boot", "manufactured")
    assert (second.store.created, second.tpm.origin) == ("earlier", "loaded")
    assert 0 < (second.store.counter - first.store.counter) % 2**128 < 10
    assert first.store.salt == second.store.salt
    assert first.store.key_id == second.store.key_id == key_id(machine.broker.secret)
    assert first.session != second.session
    assert name(first.tpm.eks[0].public).hex() == machine.steps["tpm"]["ek_name"]


def test_evidence_carries_the_token_of_this_boot(machine, ca, broker):
    for token in ("e30.first.e30", "e30.second.e30", None):
        broker.token = token
        machine.cycle()
    assert [request.evidence.ear for request in ca.requests] == ["e30.first.e30", "e30.second.e30", None]
    assert "ear" not in ca.requests[-1].evidence.to_json()


def test_renewed_certificates_replace_the_old_ones(machine, ca):
    machine.cycle()
    before = machine.certificates
    ca.issued.clear()
    told = machine.cycle()
    assert told["store"]["written"] == f"{EK:08x},{IAK:08x},{IDEVID:08x}"
    assert machine.certificates != before
    assert machine.cycle()["store"]["written"] == ""


def test_the_disks_owner_decides_no_template_once_a_tpm_is_recorded(machine):
    first = machine.cycle()
    again = machine.cycle(ek=("H-3", "H-2"))
    assert again["tpm"]["keys"] == first["tpm"]["keys"]
    assert again["tpm"]["ek_name"] == first["tpm"]["ek_name"]


def _cut_the_power(launched):
    launched.tpm.kill()
    with pytest.raises(TpmGone):
        launched.power_off()


def _fill(tpm):
    """What a guest's owner can do: take all the NV memory there is."""
    indices = []
    size = 2048
    while size:
        public = TPMS_NV_PUBLIC(
            nvIndex=0x01800000 + len(indices),
            nameAlg=TPM2_ALG.SHA256,
            attributes=TPMA_NV(0x00040004),  # AUTHWRITE, AUTHREAD
            dataSize=size,
        )
        try:
            with tpm.esapi("filling the NV memory") as esapi:
                esapi.nv_define_space(None, TPM2B_NV_PUBLIC(public), ESYS_TR.OWNER)
            indices.append(0x01800000 + len(indices))
        except TpmRefused:
            size //= 2
    return indices


def test_a_guest_that_fills_the_nv_memory_is_certified_all_the_same(machine):
    launched = machine.boot(enrol=False)
    assert list(machine.steps) == ["kbs", "volume", "tpm"]
    taken = _fill(launched.tpm)
    assert taken
    launched.power_off()

    told = machine.cycle()
    assert told["store"]["refused"] == f"{EK:08x},{IAK:08x},{IDEVID:08x}"
    assert told["store"]["written"] == ""
    kept = machine.certificates
    assert kept is not None
    again = machine.boot()
    assert machine.steps["store"]["refused"] == told["store"]["refused"]
    assert machine.steps["store"]["counter"] == machine.steps["volume"]["counter"]

    for index in taken:
        with again.tpm.esapi("making room") as esapi:
            esapi.nv_undefine_space(esapi.tr_from_tpmpublic(index), ESYS_TR.OWNER)
    again.power_off()
    healed = machine.boot()
    assert machine.steps["store"]["written"] == told["store"]["refused"]
    _cut_the_power(healed)
    assert machine.certificates == kept
    assert machine.cycle()["store"]["written"] == ""


# -- volumes of COCONUT's own SVSM ---------------------------------------------------------------------------------

NV_IMAGE, MARKER, UEFI = 1 << 32, 1 << 32 | 1, 2 << 32


def _contents(volume, inodes):
    return {inode: (volume.read(inode), volume.flags(inode)) for inode in inodes}


def test_a_volume_of_coconuts_svsm_takes_our_tpm_beside_its_own(machine, broker):
    """A real SVSM has its TPM's NV image there, and would manufacture over it if a byte of it or its marker changed."""
    broker.secret = bytes.fromhex(manifest()["default-aes128.svsm"]["key"])
    machine.disk.write_bytes(image("default-aes128.svsm"))
    with machine.volume() as volume:
        assert volume.inodes() == (NV_IMAGE, MARKER, UEFI)
        theirs = _contents(volume, volume.inodes())
    for file in manifest()["default-aes128.svsm"]["files"]:
        assert hashlib.sha256(theirs[file["inode"]][0]).hexdigest() == file["sha256"]
    assert theirs[MARKER][0] == b"COCONUT-SVSM"

    first = machine.cycle()
    assert first["volume"]["created"] == "earlier"
    assert first["tpm"]["origin"] == "manufactured"
    with machine.volume() as volume:
        assert volume.inodes() == (NV_IMAGE, MARKER, TPM_STATE, TPM_KEYS, CERTIFICATES, UEFI)
    again = machine.cycle()
    assert again["tpm"]["origin"] == "loaded"
    assert again["tpm"]["ek_name"] == first["tpm"]["ek_name"]
    with machine.volume() as volume:
        assert _contents(volume, theirs) == theirs


def test_a_disk_that_the_reference_tool_has_prepared_is_formatted(machine, broker):
    broker.secret = bytes.fromhex(manifest()["default-aes128.mkfsinfo"]["key"])
    machine.disk.write_bytes(image("default-aes128.mkfsinfo").ljust(256 * 1024, b"\0"))
    assert machine.cycle()["volume"]["created"] == "this-boot"
    assert machine.cycle()["tpm"]["origin"] == "loaded"
    with machine.volume() as volume:
        assert volume.salt.hex() == manifest()["default-aes128.mkfsinfo"]["salt"]


# -- boots that are refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize("inode", [TPM_STATE, TPM_KEYS])
def test_half_a_tpm_is_refused_and_nothing_is_written(machine, inode):
    machine.cycle(enrol=False)
    with machine.volume() as volume:
        volume.transaction({inode: None})
    machine.refuses(VolumeDamaged, "store.damaged")


def test_another_secret(machine, broker):
    machine.cycle(enrol=False)
    genuine, broker.secret = broker.secret, b"another persistence key of 32+ bytes"
    machine.refuses(VolumeKeyError, "store.key")
    broker.secret = genuine
    assert machine.cycle(enrol=False)["tpm"]["origin"] == "loaded"


def test_another_tpms_state(machine, other):
    machine.cycle(enrol=False)
    with machine.volume() as volume:
        genuine = read_state_blob(volume)
        update_tpm(volume, other[0])
    machine.refuses(TpmIdentityError, "tpm.identity", enrol=False)
    with machine.volume() as volume:
        update_tpm(volume, genuine)
    assert machine.cycle(enrol=False)["tpm"]["origin"] == "loaded"


def test_another_tpms_keys(machine, other):
    machine.cycle(enrol=False)
    with machine.volume() as volume:
        volume.transaction({TPM_KEYS: encode_keys(other[1])})
    machine.refuses(TpmIdentityError, "tpm.identity", enrol=False)


@pytest.mark.parametrize("record", [b"{}", b"\xff", b"null"])
def test_recorded_keys_that_cannot_be_read(machine, record):
    machine.cycle(enrol=False)
    with machine.volume() as volume:
        volume.transaction({TPM_KEYS: record})
    machine.refuses(VolumeDamaged, "store.damaged")


def test_a_state_that_is_none(machine):
    machine.cycle(enrol=False)
    with machine.volume() as volume:
        update_tpm(volume, b"no state")
    machine.refuses(VtpmError, "")


def test_a_state_of_another_kind(machine):
    machine.cycle(enrol=False)
    with machine.volume() as volume:
        genuine = read_state_blob(volume)
        volume.transaction({TPM_STATE: genuine})
    machine.refuses(VolumeDamaged, "store.damaged")
    with machine.volume() as volume:
        update_tpm(volume, genuine)
    assert machine.cycle(enrol=False)["tpm"]["origin"] == "loaded"


@pytest.mark.parametrize("options", [{"ek": ("X-9",)}, {"ek": ()}, {"ek": ("L-2", "L-2")}])
def test_templates_that_there_are_not(machine, options):
    error = machine.fails(UsageError, "", **options)
    assert error.exit_code == 2
    assert machine.cycle()["tpm"]["origin"] == "manufactured"


def test_a_disk_that_asks_for_another_algorithm(machine):
    machine.disk.unlink()
    make_blank_disk(machine.disk, bytes(32), layout=replace(DEFAULT, cipher=cipher_named("camellia128")))
    machine.refuses(VolumeUnsupported, "store.unsupported")


def test_a_disk_without_salt_gets_no_tpm(machine):
    machine.disk.unlink()
    make_blank_disk(machine.disk, b"")
    machine.fails(BootRefused, "svsm.salt-present")
    assert list(machine.steps) == ["kbs"]
    with machine.volume() as volume:
        assert volume.inodes() == ()


# -- a CA's answer that is not for this TPM --------------------------------------------------------------------


@pytest.fixture
def strangers(authority, other):
    keys = other[1]
    return authority.certify(keys.eks, keys.iak, keys.idevid)


def test_another_tpms_certificates_at_the_first_boot(machine, ca, strangers):
    ca.answer = lambda _: strangers
    machine.fails(VtpmError, "certificates.key")
    assert list(machine.steps) == ["kbs", "volume", "tpm"]
    ek_name = machine.steps["tpm"]["ek_name"]
    with machine.volume() as volume:
        assert volume.inodes() == (TPM_STATE, TPM_KEYS)
        state = read_tpm(volume).state
    machine.refuses(VtpmError, "certificates.key")
    with machine.volume() as volume:
        assert read_tpm(volume).state == state
    ca.answer = lambda reply: reply
    assert machine.cycle()["tpm"]["ek_name"] == ek_name


def test_another_tpms_certificates_later(machine, ca, strangers):
    machine.cycle()
    kept = machine.certificates
    ca.answer = lambda reply: replace(reply, idevid=strangers.idevid)
    machine.refuses(VtpmError, "certificates.key")
    assert machine.certificates == kept


@pytest.mark.parametrize("number", [1, 2, 4])
def test_challenges_that_the_host_made_up(machine, ca, number):
    machine.cycle(enrol=False)
    honest = ca.call

    def call(method, path, body):
        if path != "/v1/enrollments":
            return honest(method, path, body)
        challenge = Challenge(b"\x00\x0b" + bytes(32), b"\x00\x02ab", b"\x00\x02ab")
        reply = ChallengeReply("e" * 22, (challenge,) * number, "2026-11-23T10:10:00Z")
        return 201, canonical(reply.to_json())

    ca.call = call
    with machine.volume() as volume:
        before = volume.inodes()
    machine.refuses(VtpmError, "")
    with machine.volume() as volume:
        assert volume.inodes() == before


def test_certificates_of_two_answers(machine, ca, authority):
    machine.cycle()

    def mixed(reply) -> CertificatesReply:
        data = RuntimeData.parse(ca.requests[-1].evidence.runtime_data).tpm
        return replace(reply, ek=authority.certify(data.eks, data.iak, data.idevid).ek)

    ca.answer = mixed
    machine.refuses(VtpmError, "certificates.names-ek")


# -- without a grant -------------------------------------------------------------------------------------------


def test_grant_present(machine, broker):
    broker.grant = None
    machine.fails(BootRefused, "svsm.grant-present")
    assert machine.cycle(enrol=False)["tpm"]["origin"] == "loaded"


def test_nothing_can_be_shown_without_a_grant(processor):
    with pytest.raises(BootRefused) as refusal:
        SvsmDevice(KbsSession(bytes(32), None, ""), None, None, None, processor)
    assert refusal.value.rule == "svsm.grant-present"


# -- what is kept ------------------------------------------------------------------------------------------------


def test_the_state_that_changed_while_the_guest_ran_is_kept(machine):
    launched = machine.boot(enrol=False)
    taken = _fill(launched.tpm)[:1]
    launched.persist()
    _cut_the_power(launched)
    again = machine.boot(enrol=False)
    with again.tpm.esapi("looking for the index") as esapi:
        esapi.tr_from_tpmpublic(taken[0])
    again.power_off()


def test_a_state_that_did_not_change_is_not_written_again(machine):
    launched = machine.boot()
    kept = machine.steps["store"]["counter"]
    launched.persist()
    _cut_the_power(launched)
    with machine.volume() as volume:
        assert volume.counter == kept
