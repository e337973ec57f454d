"""Evidence of AMD's attestation protocol at the CA: authentic or not, and never a way to a certificate."""

import hashlib
import json
import os
from dataclasses import replace

import pytest

from ca_service.enrollment import Judge
from ca_service.enrollment.issuance import plan
from ca_service.enrollment.submission import Submission
from ca_service.judgment import BadRequest, Conflict, Refused, Trace, UnsafeSkip, Verdict, VtpmCaError
from ca_service.policy import load
from ca_service.store import schema
from vtpm.snp import LaunchContext
from vtpm.svsm.build import Build
from vtpm.svsm.errors import BootRefused
from vtpm.svsm.kbs_session import negotiate
from vtpm.wire.amd_evidence import SERVICES_PROFILE, VTPM_PROFILE, AmdBody, ServicesManifest, nonce64
from vtpm.wire.aproxy import CHALLENGE, AttestationResponse, NegotiationResponse
from vtpm.wire.enrollment import EnrollmentRequest, Evidence
from vtpm.wire.jwk import EcJwk
from vtpm.wire.runtime_data import PROFILE, KbsStatement, report_data
from vtpm.wire.services import services_report_data

PROFILES = [SERVICES_PROFILE, VTPM_PROFILE]
ORACLE_FREE = 'capabilities = ["oracle-free", "verifies-grants"]'
CAPABILITIES = 'capabilities = ["verifies-grants", "reports-state"]'


class Guest:
    """A guest that enrols with what its SVSM attests to; each part can be another's."""

    def __init__(self, world, enroller, tpm, boot) -> None:
        self.world, self.enroller, self.tpm, self.boot = world, enroller, tpm, boot
        self.aud = world.authority.ca_id

    def manifest(self, profile: str) -> bytes:
        if profile == VTPM_PROFILE:
            return self.tpm.ek.public
        kbs = KbsStatement(EcJwk.from_key(self.world.kbs.public_key()), self.world.grant(self.boot))
        return ServicesManifest(self.tpm.ek.public, kbs).pack()

    def body(self, profile: str, nonce: str | None = None, **changes) -> AmdBody:
        body = AmdBody(
            self.aud,
            self.enroller.new_nonce().nonce if nonce is None else nonce,
            self.manifest(profile),
            self.tpm.statement(),
        )
        return replace(body, **changes)

    def request(
        self, profile: str, body: AmdBody, *, data: bytes | None = None, vmpl: int = 0
    ) -> EnrollmentRequest:
        launch: LaunchContext = self.world.launch
        report = launch.report(body.report_data() if data is None else data, vmpl)
        evidence = Evidence(profile, b"", report, launch.cert_table(), amd=body)
        return EnrollmentRequest(evidence, self.tpm.certify(body.certify_qualifier()))


@pytest.fixture
def guest(world, enroller, tpms, helpers):
    return Guest(world, enroller, tpms(0), helpers.Boot())


@pytest.fixture
def oracle_free(world, store):
    """The SVSM's build is known to sign nothing that the host wants signed."""
    world.apply(store, world.policy().replace(CAPABILITIES, ORACLE_FREE))


def rows(store) -> dict[str, int]:
    with store.read() as tx:
        return {
            name: tx.connection.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar()  # noqa: S608 - our tables
            for name in schema.metadata.tables
        }


def refusal(enroller, body: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        enroller.enroll(body)
    return caught.value


def decision(store, error: Refused):
    with store.read() as tx:
        return tx.decisions.get(error.decision_id)


def failed(trace: Trace) -> list[str]:
    return [finding.rule for finding in trace.findings if finding.verdict is Verdict.FAILED]


@pytest.mark.usefixtures("oracle_free")
@pytest.mark.parametrize("profile", PROFILES)
class TestAnHonestGuest:
    def test_is_refused_for_its_profile_alone_and_everything_is_traced(
        self, store, enroller, guest, helpers, profile
    ):
        error = refusal(enroller, helpers.encode(guest.request(profile, guest.body(profile))))
        assert (error.rule, error.code, error.retryable) == ("profile.admitted", "profile-not-issued", False)
        row = decision(store, error)
        trace = Trace.from_json(json.loads(row.trace))
        assert (row.admitted, row.rule, row.stage, row.kbs_id) == (0, "profile.admitted", "enroll", "")
        assert failed(trace) == ["profile.admitted"]
        rules = [finding.rule for finding in trace.findings]
        looked = {rule.split(".")[0] for rule in rules}
        assert {"nonce", "snp", "evidence", "profile", "policy", "launch", "tpm", "certify"} <= looked
        assert looked & {"grant", "kbs"} == ({"grant", "kbs"} if profile == SERVICES_PROFILE else set())
        assert not looked & {"store", "ledger"}
        assert "grant.key-id" not in rules
        assert row.resource == (guest.boot.resource if profile == SERVICES_PROFILE else "")

    def test_has_used_its_nonce_and_gets_the_same_refusal_again(
        self, store, enroller, guest, helpers, profile
    ):
        body = guest.body(profile)
        request = helpers.encode(guest.request(profile, body))
        first, before = refusal(enroller, request), rows(store)
        assert vars(refusal(enroller, request)) == vars(first)
        with pytest.raises(Conflict):
            enroller.enroll(helpers.encode(guest.request(profile, body)))
        assert rows(store) == before
        kept = {name for name, count in before.items() if count}
        assert {"decisions", "evidence", "submissions"} <= kept
        assert not kept & {
            "enrollments",
            "intents",
            "certificates",
            "instances",
            "tpms",
            "tpm_keys",
            "key_ids",
        }

    def test_gets_nothing_by_a_tpm_that_is_certified(self, world, store, enroller, guest, helpers, profile):
        """A known TPM gets its stored certificates by evidence that states its store, and by no other."""
        world.apply(store, world.policy())
        helpers.issue(world, enroller, guest.tpm, guest.boot)
        world.apply(store, world.policy().replace(CAPABILITIES, ORACLE_FREE))
        request = replace(guest.request(profile, guest.body(profile)), certify=None)
        error = refusal(enroller, helpers.encode(request))
        assert error.rule == "profile.admitted"
        trace = Trace.from_json(json.loads(decision(store, error).trace))
        assert "certify.present" in failed(trace)
        assert not any(finding.rule.startswith("ledger.") for finding in trace.findings)

    def test_no_policy_is_another_reason(self, world, store, guest, helpers, profile):
        with store.write() as tx:
            tx.connection.exec_driver_sql("DELETE FROM policies")
        error = refusal(world.enroller(store), helpers.encode(guest.request(profile, guest.body(profile))))
        assert error.rule == "policy.in-force"
        trace = Trace.from_json(json.loads(decision(store, error).trace))
        assert failed(trace) == ["policy.in-force"]


@pytest.mark.usefixtures("oracle_free")
@pytest.mark.parametrize("profile", PROFILES)
def test_a_guest_that_asks_the_processor_itself(store, enroller, guest, helpers, profile):
    """Any guest can have any REPORT_DATA at its own privilege level."""
    error = refusal(enroller, helpers.encode(guest.request(profile, guest.body(profile), vmpl=2)))
    trace = Trace.from_json(json.loads(decision(store, error).trace))
    assert failed(trace) == ["snp.vmpl", "launch.measurement", "profile.admitted"]


@pytest.mark.usefixtures("oracle_free")
class TestWhatIsMixedUp:
    """Not authentic: nothing is written, and the nonce is still good."""

    @pytest.fixture(autouse=True)
    def unchanged(self, oracle_free, enroller, store):
        before = rows(store)
        yield
        assert rows(store) == before

    def refused(self, enroller, helpers, request) -> str:
        error = refusal(enroller, helpers.encode(request))
        assert error.decision_id == ""
        return error.rule

    @pytest.mark.parametrize("profile", PROFILES)
    def test_evidence_for_another_ca(self, enroller, guest, helpers, profile):
        body = guest.body(profile, aud="other-ca")
        assert self.refused(enroller, helpers, guest.request(profile, body)) == "nonce.audience"
        renamed = replace(body, aud=guest.aud)
        request = guest.request(profile, renamed, data=body.report_data())
        assert self.refused(enroller, helpers, request) == "evidence.report-data"

    @pytest.mark.parametrize("profile", PROFILES)
    def test_the_nonce_of_another_ca(self, world, enroller, guest, helpers, profile):
        other = replace(world.authority, nonce_key=bytes(32))
        foreign = replace(enroller.desk, authority=other)
        nonce = type(enroller)(foreign).new_nonce().nonce
        body = guest.body(profile, nonce)
        assert self.refused(enroller, helpers, guest.request(profile, body)) == "nonce.genuine"
        ours = replace(body, nonce=enroller.new_nonce().nonce)
        request = guest.request(profile, ours, data=body.report_data())
        assert self.refused(enroller, helpers, request) == "evidence.report-data"

    def test_the_single_service_form_as_services(self, enroller, guest, helpers):
        body = guest.body(SERVICES_PROFILE)
        data = services_report_data(nonce64(body.aud, body.nonce), guest.tpm.ek.public)
        request = guest.request(SERVICES_PROFILE, body, data=data)
        assert self.refused(enroller, helpers, request) == "evidence.report-data"

    def test_the_services_form_as_a_single_service(self, enroller, guest, helpers):
        body = guest.body(VTPM_PROFILE)
        data = services_report_data(nonce64(body.aud, body.nonce), guest.manifest(SERVICES_PROFILE))
        request = guest.request(VTPM_PROFILE, body, data=data)
        assert self.refused(enroller, helpers, request) == "evidence.report-data"

    @pytest.mark.parametrize("profile", PROFILES)
    def test_the_report_of_the_other_kind_of_profile(self, world, enroller, guest, helpers, profile):
        body = guest.body(profile)
        first = world.request(body.nonce, guest.tpm, guest.boot)
        amd = guest.request(profile, body)
        exchanged = [
            replace(amd, evidence=replace(amd.evidence, report=first.evidence.report)),
            replace(first, evidence=replace(first.evidence, report=amd.evidence.report)),
            guest.request(profile, body, data=report_data(nonce64(body.aud, body.nonce) + body.manifest)),
        ]
        for request in exchanged:
            assert self.refused(enroller, helpers, request) == "evidence.report-data"

    def test_runtime_data_in_the_place_of_a_manifest(self, world, enroller, guest, helpers):
        """SHA-512 over nonce and runtime data is none of profile 1's forms, and runtime data are no manifest."""
        body = guest.body(SERVICES_PROFILE)
        data = world.runtime_data(body.nonce, guest.tpm, guest.boot).canonical()
        request = guest.request(SERVICES_PROFILE, replace(body, manifest=data))
        with pytest.raises(BadRequest) as caught:
            enroller.enroll(helpers.encode(request))
        assert caught.value.path == "evidence.manifest"

    def test_another_label_on_the_envelope(self, world, enroller, guest, helpers):
        nonce = enroller.new_nonce().nonce
        requests = {
            PROFILE: world.request(nonce, guest.tpm, guest.boot),
            **{profile: guest.request(profile, guest.body(profile, nonce)) for profile in PROFILES},
        }
        for own, request in requests.items():
            for label in requests.keys() - {own}:
                message = request.to_json()
                message["evidence"]["profile"] = label
                with pytest.raises(BadRequest) as caught:
                    enroller.enroll(json.dumps(message).encode())
                assert caught.value.path.startswith("evidence.")


@pytest.mark.usefixtures("oracle_free")
@pytest.mark.parametrize("profile", PROFILES)
def test_a_flipped_bit_in_the_statement_about_the_tpm_breaks_the_proof(enroller, guest, helpers, profile):
    """No report covers it, so TPM2_Certify must: an authentic report stays, and the qualifier differs."""
    request = guest.request(profile, guest.body(profile))
    tpm = request.evidence.amd.tpm
    for changed in (
        replace(tpm, vendor="other"),
        replace(tpm, firmware="0" * 16),
        replace(tpm, origin="loaded"),
        replace(tpm, spec=replace(tpm.spec, revision="185")),
    ):
        evidence = replace(request.evidence, amd=replace(request.evidence.amd, tpm=changed))
        submission = Submission.parse(helpers.encode(replace(request, evidence=evidence)))
        at = enroller.desk.now()
        assert enroller.desk.judge.authenticate(submission, at).admitted
        policy = load(guest.world.policy().replace(CAPABILITIES, ORACLE_FREE))
        trace = enroller.desk.judge.decide(submission, policy, at, certify=True)
        assert "certify.qualifier" in failed(trace)


@pytest.mark.usefixtures("oracle_free")
@pytest.mark.parametrize("profile", PROFILES)
def test_a_flipped_bit_in_nonce_or_manifest(enroller, guest, helpers, profile):
    request = guest.request(profile, guest.body(profile))
    found = set()
    for field in ("aud", "nonce", "manifest"):
        value = getattr(request.evidence.amd, field)
        raw = value if isinstance(value, bytes) else value.encode()
        for bit in range(0, len(raw) * 8, 29 if len(raw) < 512 else 173):
            flipped = bytearray(raw)
            flipped[bit // 8] ^= 1 << bit % 8
            spoilt = bytes(flipped) if field == "manifest" else flipped.decode("latin-1")
            amd = replace(request.evidence.amd, **{field: spoilt})
            try:
                enroller.enroll(helpers.encode(replace(request, evidence=replace(request.evidence, amd=amd))))
            except Refused as error:
                assert error.decision_id == ""  # noqa: PT017 - either error is right
                found.add(error.rule)
            except BadRequest as error:
                found.add(error.code)
            else:
                raise AssertionError(f"admitted with bit {bit} of {field} flipped")
    assert found <= {"malformed", "nonce.audience", "nonce.genuine", "evidence.report-data"}
    assert {"malformed", "evidence.report-data"} <= found


class TestTheSigningOracle:
    """Today's SVSM signs SHA-512 of the host's own bytes before it boots (design: the pre-boot hash).

    The host so gets genuine evidence of both profiles, for a TPM that no SVSM has ever seen.
    """

    @pytest.fixture(params=PROFILES)
    def forged(self, request, world, enroller, tpms, helpers):
        attacker = Guest(world, enroller, tpms(1), helpers.Boot())
        body = attacker.body(request.param)
        chosen, signed = nonce64(body.aud, body.nonce) + body.manifest, []

        def host(answer):
            signed.append(answer(NegotiationResponse(chosen, (CHALLENGE,))))
            return AttestationResponse(success=False)

        with pytest.raises(BootRefused):
            negotiate(host, world.launch.report, world.launch.cert_table, Build.APROXY_HEAD)
        evidence = Evidence(request.param, b"", signed[0].report, signed[0].certs, amd=body)
        return EnrollmentRequest(evidence, attacker.tpm.certify(body.certify_qualifier()))

    def test_is_authentic_and_stopped_by_capability_and_profile(
        self, world, store, enroller, forged, helpers
    ):
        submission, at = Submission.parse(helpers.encode(forged)), enroller.desk.now()
        judge = enroller.desk.judge
        assert judge.judge_nonce(submission, at).admitted
        assert judge.authenticate(submission, at).admitted
        error = refusal(enroller, submission.body)
        trace = Trace.from_json(json.loads(decision(store, error).trace))
        assert failed(trace) == ["profile.admitted", "launch.capabilities"]
        # What the requester is told names neither the capability nor what else is listed.
        assert "oracle-free" not in json.dumps(vars(error), default=str)
        assert world.launch.measurement.hex() not in json.dumps(vars(error), default=str)

    def test_each_of_the_two_is_enough_and_nothing_else_is(self, world, enroller, forged, helpers):
        submission, at = Submission.parse(helpers.encode(forged)), enroller.desk.now()
        policy = load(world.policy())
        rules = ["profile.admitted", "launch.capabilities"]
        for off, left in ((rules[:1], rules[1:]), (rules[1:], rules[:1]), (rules, [])):
            judge = enroller.desk.judge.with_replaced({rule: UnsafeSkip(rule) for rule in off})
            trace = judge.decide(submission, policy, at, certify=True)
            assert failed(trace) == left
            assert trace.admitted == (not left)

    def test_even_with_both_off_there_is_no_way_to_a_certificate(
        self, world, store, enroller, forged, helpers
    ):
        """The ledger knows no claim of such evidence, and nothing is issued without one."""
        authority, before = world.authority, rows(store)
        judge = Judge.of(authority.ca_id, authority.mode, authority.nonce_key).with_replaced(
            {rule: UnsafeSkip(rule) for rule in ("profile.admitted", "launch.capabilities")}
        )
        with pytest.raises(VtpmCaError, match="has no claim"):
            world.enroller(store, judge=judge).enroll(helpers.encode(forged))
        assert rows(store) == before

    def test_not_even_with_the_claim_of_another(self, world, store, enroller, tpms, forged, helpers):
        """The room that drafts certificates looks at the profile once more, whatever led there."""
        honest = world.body(enroller.new_nonce().nonce, tpms(0), helpers.Boot())
        with store.read() as tx:
            facts = enroller.desk.view(tx, Submission.parse(honest)).facts
        more = {"policy_digest": "00" * 32, "decision_id": "d", "at": world.time, "entropy": os.urandom}
        assert plan(Submission.parse(honest), facts, world.authority, **more).pieces
        with pytest.raises(
            VtpmCaError, match=r"on which nothing is issued|deserves an ephemeral certificate"
        ):
            plan(Submission.parse(helpers.encode(forged)), facts, world.authority, **more)

    def test_cannot_make_evidence_of_profile_1(self, world, enroller, tpms, helpers):
        """Its REPORT_DATA ends in 16 zero bytes, which no SHA-512 of the host's choice does."""
        attacker = tpms(1)
        first = world.request(enroller.new_nonce().nonce, attacker, helpers.Boot())
        data = first.evidence.runtime_data
        report = world.launch.report(hashlib.sha512(data).digest())
        mixed = replace(first, evidence=replace(first.evidence, report=report))
        assert refusal(enroller, helpers.encode(mixed)).rule == "evidence.report-data"
