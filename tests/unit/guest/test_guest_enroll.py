"""`vtpm enroll` from a TPM and configfs to certificates of a real CA over HTTP, and what refuses it."""

import json
import os
import signal
import sys

import amd_guest
import configfs_stand_in as stand_in
import pytest
from cryptography import x509
from tpm2_pytss import ESYS_TR

from vtpm.tpm import derive
from vtpm.wire.amd_evidence import SERVICES_PROFILE, VTPM_PROFILE
from vtpm.wire.note import VerifierKey
from vtpm.wire.public_area import parse_public
from vtpm.wire.services import pack_services
from vtpm.wire.templates import Role, template


def spki(certificate):
    return x509.load_pem_x509_certificate(certificate).public_key()


@pytest.mark.parametrize(("profile", "template_id"), [(VTPM_PROFILE, "L-1"), (SERVICES_PROFILE, "L-2")])
def test_a_guest_gets_ephemeral_certificates_for_its_tpm(
    vtpm_enroll, ca, swtpm, tcti, svsm_with, tmp_path, profile, template_id
):
    ek = derive(swtpm, template(Role.EK, template_id)).public
    out = tmp_path / "certificates"
    with ca() as url:
        done = vtpm_enroll(
            "--ca", url, "--tcti", tcti, "--profile", profile, "--out", out, svsm=svsm_with(ek)
        )
    assert (done.code, done.out.count("\n")) == (0, 1), done.err
    before, after = done.err.split("The certificates are EPHEMERAL at most", 1)[0], done.err
    assert "vouches for the EK of its vTPM" in before
    record = json.loads((out / "enrollment.json").read_text())
    assert f"These certificates are EPHEMERAL: the first ends at {record['not_after']}" in after
    assert (record["ca"], record["profile"]) == (url, profile)
    assert spki((out / "ek.pem").read_bytes()) == parse_public(ek).public_key()
    for role in (Role.IAK, Role.IDEVID):
        made = derive(swtpm, template(role, "H-3")).public
        assert spki((out / f"{role.value}.pem").read_bytes()) == parse_public(made).public_key()
    issuer, root = x509.load_pem_x509_certificates((out / "chain.pem").read_bytes())
    leaf = x509.load_pem_x509_certificate((out / "iak.pem").read_bytes())
    leaf.verify_directly_issued_by(issuer)
    issuer.verify_directly_issued_by(root)
    assert "Ephemeral" in issuer.subject.rfc4514_string()
    assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).days == amd_guest.DAYS


def test_a_second_time_and_without_a_folder(vtpm_enroll, ca, tcti, tmp_path):
    out = tmp_path / "certificates"
    with ca() as url:
        assert vtpm_enroll("--ca", url, "--tcti", tcti, "--out", out).code == 0
        first = (out / "ek.pem").read_text()
        done = vtpm_enroll("--ca", url, "--tcti", tcti, "--out", out, "--json")
    told = json.loads(done.out)
    assert told["ephemeral"] is True
    assert told["pem"] == {path.name: path.read_text() for path in out.glob("*.pem")}
    assert told["certificates"]["ek"]["template"] == "L-2"
    assert (first == told["pem"]["ek.pem"]) == (first == (out / "ek.pem").read_text())
    loaded = x509.load_pem_x509_certificates("".join(told["pem"].values()).encode())
    assert len(loaded) == 5


def test_a_log_key_demands_that_the_certificates_are_logged(vtpm_enroll, ca, world, tcti):
    log = world.authority.log
    with ca() as url:
        done = vtpm_enroll("--ca", url, "--tcti", tcti, "--log", log.verifier)
        assert (done.code, done.out.count("BEGIN CERTIFICATE")) == (0, 5), done.err
        other = vtpm_enroll("--ca", url, "--tcti", tcti, "--log", str(VerifierKey(log.origin, bytes(32))))
    assert (other.code, other.out) == (1, "")
    assert "[log.checkpoint]" in other.err


class TestRefused:
    def refused(self, done, out, *words):
        assert (done.code, done.out, out.exists()) == (1, "", False), done.err
        assert "These certificates are EPHEMERAL" not in done.err
        for word in words:
            assert word in done.err

    @pytest.mark.parametrize("profile", [VTPM_PROFILE, SERVICES_PROFILE])
    def test_by_a_ca_whose_policy_does_not_name_the_profile(self, vtpm_enroll, ca, tcti, tmp_path, profile):
        others = [name for name in amd_guest.PROFILES if name != profile]
        with ca(profiles=others) as url:
            done = vtpm_enroll("--ca", url, "--tcti", tcti, "--profile", profile, "--out", tmp_path / "out")
        self.refused(done, tmp_path / "out", "[profile.admitted] the CA refused", "(decision ")

    def test_by_a_ca_that_does_not_know_the_build_for_oracle_free(self, vtpm_enroll, ca, tcti, tmp_path):
        todays = ("verifies-grants", "reports-state")
        with ca(capabilities=todays) as url:
            done = vtpm_enroll("--ca", url, "--tcti", tcti, "--out", tmp_path / "out")
        self.refused(done, tmp_path / "out", "[launch.capabilities]")

    def test_another_tpm_than_the_svsms(self, vtpm_enroll, ca, world, tcti, tpm_elsewhere, tmp_path):
        """A VM with two TPMs, and --tcti names the wrong one."""
        with ca() as url:
            other = stand_in.svsm_of(world.launch, tpm_elsewhere)
            done = vtpm_enroll("--ca", url, "--tcti", tcti, "--out", tmp_path / "out", svsm=other)
        self.refused(done, tmp_path / "out", "[profile.ek-in-manifest]", "--tcti")

    def test_an_answer_to_another_question(self, vtpm_enroll, ca, world, tcti, ek, tmp_path):
        honest = stand_in.svsm_of(world.launch, ek)

        def replaying(nonce, service, version):
            return honest(bytes(64), service, version)

        with ca() as url:
            done = vtpm_enroll("--ca", url, "--tcti", tcti, "--out", tmp_path / "out", svsm=replaying)
        self.refused(done, tmp_path / "out", "[evidence.report-data]")

    def test_a_manifest_without_a_vtpm(self, vtpm_enroll, ca, tcti, tmp_path):
        with ca() as url:
            empty = pack_services({})
            done = vtpm_enroll(
                "--ca", url, "--tcti", tcti, "--profile", SERVICES_PROFILE, "--out", tmp_path / "out",
                svsm=lambda *_: (bytes(1184), empty, b""),
            )  # fmt: skip
        self.refused(done, tmp_path / "out", "[guest.manifest]", "must have the vTPM service")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_svsm_is_asked(vtpm_enroll, ca, tcti, tmp_path, number):
    def slow(*_):
        os.kill(os.getpid(), number)
        return stand_in.nothing()

    # Whoever does not heed it gets an answer from this SVSM that refuses him.
    signal.signal(number, lambda *_: None)
    with ca() as url:
        done = vtpm_enroll("--ca", url, "--tcti", tcti, "--out", tmp_path / "out", svsm=slow)
    assert (done.code, done.out, (tmp_path / "out").exists()) == (130, "", False), done.err


class TestTheHostsTable:
    def test_is_left_out_if_it_cannot_be_read_and_the_ca_decides(self, vtpm_enroll, ca, world, tcti, ek):
        honest = stand_in.svsm_of(world.launch, ek)
        with ca() as url:
            done = vtpm_enroll(
                "--ca", url, "--tcti", tcti, svsm=lambda *asked: (*honest(*asked)[:2], b"\xff" * 100)
            )
        # This CA has no VCEK of its own.
        assert (done.code, done.out) == (1, ""), done.err
        assert "The host's certificate table was left out: certificates" in done.err


class TestBeforeAnybodyIsAsked:
    """What is wrong with the command line costs no nonce and no report: there is no CA and no SVSM here."""

    @pytest.mark.parametrize(
        ("words", "code", "told"),
        [
            (("--ca", "ca.example"), 2, "must be a URL"),
            (("--ca", "http://127.0.0.1:1", "--log", "x"), 2, "--log"),
            (("--ca", "http://127.0.0.1:1", "--tcti", "device:/nowhere"), 2, "No such file or directory"),
            (("--ca", "http://127.0.0.1:1", "--tcti", "nonsense"), 2, "--tcti"),
            (("--ca", "http://127.0.0.1:1", "--profile", "svsm-vtpm-ca:1"), 2, "--profile"),
            (("--ca", "http://127.0.0.1:1", "--iak", "L-1"), 2, "--iak"),
            (("--ca", "http://127.0.0.1:1", "--out", "/nowhere/there"), 2, "is no folder"),
        ],
    )
    def test_wrong_words(self, vtpm_enroll, words, code, told):
        done = vtpm_enroll(*words, svsm=None)
        assert (done.code, done.out) == (code, "")
        assert told in done.err
        assert "Traceback" not in done.err

    def test_a_tpm_that_its_owner_has_closed(self, vtpm_enroll, tcti, as_owner):
        with as_owner() as esapi:
            esapi.hierarchy_change_auth(ESYS_TR.ENDORSEMENT, b"secret")
        try:
            done = vtpm_enroll("--ca", "http://127.0.0.1:1", "--tcti", tcti, svsm=None)
        finally:
            with as_owner() as esapi:
                esapi.tr_set_auth(ESYS_TR.ENDORSEMENT, b"secret")
                esapi.hierarchy_change_auth(ESYS_TR.ENDORSEMENT, b"")
        assert (done.code, done.out) == (1, "")
        assert "[guest.endorsement-auth]" in done.err

    def test_a_ca_that_is_away(self, vtpm_enroll, tcti, monkeypatch):
        monkeypatch.setattr(sys.modules["vtpm.client.enroll"], "_PAUSES_S", ())
        done = vtpm_enroll("--ca", "http://127.0.0.1:1", "--tcti", tcti, svsm=None)
        assert (done.code, done.out) == (3, "")
        assert "cannot be reached" in done.err
