"""Evidence of AMD's attestation protocol at the CA: what it is worth, and what stops those who forge or mix it."""

import hashlib
import json
from dataclasses import replace

import amd_guest
import pytest
from amd_guest import PROFILES, Guest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.enrollment import Judge
from ca_service.enrollment.issuance import plan
from ca_service.enrollment.submission import Submission
from ca_service.judgment import BadRequest, Conflict, Record, Refused, Trace, UnsafeSkip, Verdict
from ca_service.keys import AuthoritySource
from ca_service.policy import load
from ca_service.profiles import LintFailed
from ca_service.store import schema
from vtpm.svsm.build import Build
from vtpm.svsm.errors import BootRefused
from vtpm.svsm.kbs_session import negotiate
from vtpm.wire.amd_evidence import SERVICES_PROFILE, VTPM_PROFILE, nonce64
from vtpm.wire.aproxy import CHALLENGE, AttestationResponse, NegotiationResponse
from vtpm.wire.enrollment import EnrollmentRequest, Evidence
from vtpm.wire.public_area import parse_public
from vtpm.wire.runtime_data import PROFILE, report_data
from vtpm.wire.services import services_report_data

EPHEMERAL_ONLY = [("ephemeral", 1)] * 3
LASTING = {"tpm_keys", "key_ids"}
ISSUING = {"enrollments", "intents", "certificates", "instances", "tpms", *LASTING}


@pytest.fixture
def guest(world, enroller, tpms):
    return Guest(world, enroller, tpms(0))


@pytest.fixture
def admitted(world, store):
    """The policy admits both profiles, and the SVSM's build is known to sign nothing that the host wants signed."""
    world.apply(store, amd_guest.policy(world))


def rows(store) -> dict[str, int]:
    with store.read() as tx:
        return {
            name: tx.connection.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar()  # noqa: S608 - our tables
            for name in schema.metadata.tables
        }


def filled(store) -> set[str]:
    return {name for name, count in rows(store).items() if count}


def refusal(enroller, body: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        enroller.enroll(body)
    return caught.value


def decision(store, error: Refused):
    with store.read() as tx:
        return tx.decisions.get(error.decision_id)


def failed(trace: Trace) -> list[str]:
    return [finding.rule for finding in trace.findings if finding.verdict is Verdict.FAILED]


def refused_by(store, error: Refused) -> list[str]:
    """All rules that said no, of which the requester heard the first."""
    rules = failed(Record.parse(decision(store, error).trace).trace)
    assert error.rule == rules[0]
    return rules


def without(judge: Judge, rules) -> Judge:
    return judge.with_replaced({rule: UnsafeSkip(rule) for rule in rules})


def stopped_by_each(judge: Judge, body: bytes, policy, at, rules: list[str]) -> None:
    """These rules refuse, each of them alone too, and no other does."""
    submission = Submission.parse(body)
    assert judge.authenticate(submission, at).admitted
    for left in (rules, *([rule] for rule in rules), []):
        off = [rule for rule in rules if rule not in left]
        trace = without(judge, off).decide(submission, policy, at, certify=True)
        assert failed(trace) == left
        assert trace.admitted == (not left)


@pytest.mark.usefixtures("admitted")
@pytest.mark.parametrize("profile", PROFILES)
class TestAnHonestGuest:
    def test_gets_ephemeral_certificates_and_everything_is_traced(
        self, world, store, enroller, guest, helpers, profile
    ):
        reply = guest.issue(profile)
        assert helpers.signers(world.authority, reply) == EPHEMERAL_ONLY
        assert not filled(store) & LASTING
        with store.read() as tx:
            row = tx.decisions.get(helpers.CertificatesReply.parse(reply).decision_id)
        trace = Record.parse(row.trace).trace
        assert (row.admitted, row.rule, row.stage, row.kbs_id) == (1, "", "enroll", "ephemeral:")
        assert row.resource.startswith(f"ephemeral/{world.launch.report_id.hex()}/")
        assert failed(trace) == []
        rules = [finding.rule for finding in trace.findings]
        looked = {rule.split(".")[0] for rule in rules}
        assert {
            "nonce",
            "snp",
            "evidence",
            "profile",
            "policy",
            "launch",
            "tpm",
            "certify",
            "ledger",
        } <= looked
        assert looked & {"grant", "kbs"} == ({"grant", "kbs"} if profile == SERVICES_PROFILE else set())
        assert "store" not in looked
        assert "grant.key-id" not in rules

    def test_has_used_its_nonce_and_gets_the_same_answer_again(
        self, store, enroller, guest, helpers, profile
    ):
        body = guest.body(profile)
        request = helpers.encode(guest.request(profile, body))
        first, before = enroller.enroll(request), rows(store)
        assert first.status == 201
        assert enroller.enroll(request) == first
        with pytest.raises(Conflict):
            enroller.enroll(helpers.encode(guest.request(profile, body)))
        assert rows(store) == before
        assert not filled(store) & (ISSUING - {"enrollments"})

    def test_who_was_refused_has_used_its_nonce_too(self, world, store, enroller, guest, helpers, profile):
        world.apply(store, world.policy())
        body = guest.body(profile)
        request = helpers.encode(guest.request(profile, body))
        first, before = refusal(enroller, request), rows(store)
        assert vars(refusal(enroller, request)) == vars(first)
        with pytest.raises(Conflict):
            enroller.enroll(helpers.encode(guest.request(profile, body)))
        assert rows(store) == before
        assert {"decisions", "evidence", "submissions"} <= filled(store)
        assert not filled(store) & ISSUING

    def test_gets_nothing_by_a_tpm_that_is_certified(self, world, store, enroller, guest, helpers, profile):
        """A known TPM gets its stored certificates by evidence that states its store, and by no other."""
        helpers.issue(world, enroller, guest.tpm, guest.boot)
        before = rows(store)["certificates"]
        request = replace(guest.request(profile), certify=None)
        error = refusal(enroller, helpers.encode(request))
        assert refused_by(store, error) == ["ledger.key-unique"]
        assert rows(store)["certificates"] == before
        with store.read() as tx:
            assert [alarm.kind for alarm in tx.alarms.latest()] == ["clone"]

    def test_needs_certify_for_new_certificates(self, store, enroller, guest, helpers, profile):
        request = replace(guest.request(profile), certify=None)
        error = refusal(enroller, helpers.encode(request))
        assert (error.code, error.retryable) == ("certify-required", True)
        assert refused_by(store, error)[0] == "certify.present"

    def test_without_any_policy(self, world, store, guest, helpers, profile):
        with store.write() as tx:
            tx.connection.exec_driver_sql("DELETE FROM policy_starts")
            tx.connection.exec_driver_sql("DELETE FROM policies")
        error = refusal(world.enroller(store), helpers.encode(guest.request(profile)))
        assert refused_by(store, error) == ["policy.in-force"]


@pytest.mark.parametrize("profile", PROFILES)
class TestThePolicyHasTheSay:
    def refused(self, world, store, enroller, guest, helpers, profile, text) -> list[str]:
        world.apply(store, text)
        rules = refused_by(store, refusal(enroller, helpers.encode(guest.request(profile))))
        assert not filled(store) & ISSUING
        return rules

    def test_who_does_not_name_the_profile_does_not_admit_it(
        self, world, store, enroller, guest, helpers, profile
    ):
        (other,) = set(PROFILES) - {profile}
        for profiles, volatile in (((), False), ((), True), ((other,), False)):
            text = amd_guest.policy(world, profiles=profiles, volatile=volatile)
            assert self.refused(world, store, enroller, guest, helpers, profile, text) == ["profile.admitted"]

    @pytest.mark.parametrize("missing", ["oracle-free", "verifies-grants"])
    def test_the_launch_must_be_able_to(self, world, store, enroller, guest, helpers, profile, missing):
        has = [word for word in amd_guest.ALL_CAPABILITIES if word != missing]
        text = amd_guest.policy(world, capabilities=has)
        if missing == "verifies-grants" and profile == VTPM_PROFILE:
            world.apply(store, text)
            assert helpers.signers(world.authority, guest.issue(profile)) == EPHEMERAL_ONLY
        else:
            rules = self.refused(world, store, enroller, guest, helpers, profile, text)
            assert rules == ["launch.capabilities"]


@pytest.mark.usefixtures("admitted")
class TestTheGrantInAServicesManifest:
    def test_is_demanded(self, store, enroller, guest, helpers):
        manifest = amd_guest.ServicesManifest(guest.tpm.ek.public).pack()
        request = guest.request(SERVICES_PROFILE, guest.body(SERVICES_PROFILE, manifest=manifest))
        assert refused_by(store, refusal(enroller, helpers.encode(request))) == ["profile.grant-present"]

    def test_is_judged_as_any_other(self, world, store, enroller, guest, helpers):
        for boot, rules in (
            (replace(guest.boot, kbs=ec.generate_private_key(ec.SECP384R1())), ["kbs.listed"]),
            (replace(guest.boot, resource="elsewhere/x/y"), ["kbs.resource"]),
            (replace(guest.boot, change_claims=lambda c: replace(c, origin="provisioned")), ["kbs.origin"]),
            (
                replace(guest.boot, change_claims=lambda c: replace(c, report_id=bytes(32))),
                ["grant.report-id"],
            ),
            (
                replace(guest.boot, change_claims=lambda c: replace(c, iat=c.iat - 7200, exp=c.exp - 7200)),
                ["grant.age"],
            ),
        ):
            request = Guest(world, enroller, guest.tpm, boot).request(SERVICES_PROFILE)
            found = refused_by(store, refusal(enroller, helpers.encode(request)))
            assert set(rules) <= set(found)
            assert all(rule.startswith(("kbs.", "grant.")) for rule in found)


@pytest.mark.usefixtures("admitted")
@pytest.mark.parametrize("profile", PROFILES)
def test_a_guest_that_asks_the_processor_itself(world, store, enroller, guest, helpers, profile):
    """Any guest can have any REPORT_DATA at its own privilege level: two rules ask who spoke."""
    request = guest.request(profile, vmpl=2)
    stops = ["snp.vmpl", "launch.measurement"]
    assert refused_by(store, refusal(enroller, helpers.encode(request))) == stops
    policy, at = load(amd_guest.policy(world)), enroller.desk.now()
    stopped_by_each(enroller.desk.judge, helpers.encode(request), policy, at, stops)
    guest.enroller = world.enroller(store, judge=without(enroller.desk.judge, stops))
    gained = guest.finish(guest.request(profile, vmpl=2))
    assert helpers.signers(world.authority, gained) == EPHEMERAL_ONLY


@pytest.mark.usefixtures("admitted")
@pytest.mark.parametrize("profile", PROFILES)
def test_another_tpm_behind_the_manifest_of_an_honest_one(
    world, store, enroller, guest, tpms, helpers, profile
):
    """The report covers the manifest's EK; the TPM that is stated beside it could be in anybody's hands."""
    thief = Guest(world, enroller, tpms(1))
    manifest = guest.manifest(profile)
    request = thief.request(profile, thief.body(profile, manifest=manifest))
    stops = ["profile.ek-in-manifest"]
    assert refused_by(store, refusal(enroller, helpers.encode(request))) == stops
    policy, at = load(amd_guest.policy(world)), enroller.desk.now()
    stopped_by_each(enroller.desk.judge, helpers.encode(request), policy, at, stops)
    thief.enroller = world.enroller(store, judge=without(enroller.desk.judge, stops))
    gained = thief.finish(thief.request(profile, thief.body(profile, manifest=manifest)))
    assert helpers.signers(world.authority, gained) == EPHEMERAL_ONLY


@pytest.mark.usefixtures("admitted")
def test_a_second_ek_that_no_manifest_holds(world, store, enroller, tpm_of, helpers):
    """It is in no report; the challenge to the first EK alone would vouch for it."""
    guest = Guest(world, enroller, tpm_of(("L-2", "H-3")))
    text = amd_guest.policy(world).replace('ek = ["L-1"]', 'ek = ["L-2", "H-3"]')
    world.apply(store, text)
    error = refusal(enroller, helpers.encode(guest.request(VTPM_PROFILE)))
    assert refused_by(store, error) == ["profile.single-ek"]


@pytest.mark.usefixtures("admitted")
class TestWhatIsMixedUp:
    """Not authentic: nothing is written, and the nonce is still good."""

    @pytest.fixture(autouse=True)
    def unchanged(self, admitted, enroller, store):
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
        foreign = replace(enroller.desk, source=AuthoritySource(world.directory / "ca", lambda: other))
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


@pytest.mark.usefixtures("admitted")
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
        policy = load(amd_guest.policy(guest.world))
        trace = enroller.desk.judge.decide(submission, policy, at, certify=True)
        assert "certify.qualifier" in failed(trace)
        assert set(failed(trace)) <= {"certify.qualifier", "certify.firmware"}


@pytest.mark.usefixtures("admitted")
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

    STOPS = ("profile.admitted", "launch.capabilities")

    @pytest.fixture(params=PROFILES)
    def profile(self, request):
        return request.param

    @pytest.fixture
    def forge(self, world, enroller, tpms, profile):
        """Makes forged evidence, as good as new each time, for a TPM of the host's."""

        def make() -> EnrollmentRequest:
            body = Guest(world, enroller, tpms(1)).body(profile)
            chosen, signed = nonce64(body.aud, body.nonce) + body.manifest, []

            def host(answer):
                signed.append(answer(NegotiationResponse(chosen, (CHALLENGE,))))
                return AttestationResponse(success=False)

            with pytest.raises(BootRefused):
                negotiate(host, world.launch.report, world.launch.cert_table, Build.APROXY_HEAD)
            evidence = Evidence(profile, b"", signed[0].report, signed[0].certs, amd=body)
            return EnrollmentRequest(evidence, tpms(1).certify(body.certify_qualifier()))

        return make

    def test_is_authentic_and_stopped_by_capability_and_profile(self, world, store, enroller, forge, helpers):
        submission, at = Submission.parse(helpers.encode(forge())), enroller.desk.now()
        judge = enroller.desk.judge
        assert judge.judge_nonce(submission, enroller._admission.nonce_key(), at).admitted
        assert judge.authenticate(submission, at).admitted
        error = refusal(enroller, submission.body)
        assert refused_by(store, error) == list(self.STOPS)
        assert not filled(store) & ISSUING
        # What the requester is told names neither the capability nor what else is listed.
        assert "oracle-free" not in json.dumps(vars(error), default=str)
        assert world.launch.measurement.hex() not in json.dumps(vars(error), default=str)

    def test_each_of_the_two_is_enough_and_nothing_else_is(self, world, enroller, forge, helpers):
        policy, at = load(world.policy()), enroller.desk.now()
        stopped_by_each(enroller.desk.judge, helpers.encode(forge()), policy, at, list(self.STOPS))

    def test_a_policy_that_admits_the_profile_still_asks_for_the_capability(
        self, world, store, enroller, forge, helpers
    ):
        world.apply(store, amd_guest.policy(world, capabilities=["verifies-grants", "reports-state"]))
        assert refused_by(store, refusal(enroller, helpers.encode(forge()))) == ["launch.capabilities"]

    @pytest.mark.parametrize("how", ["checks off", "policy says so"])
    def test_who_has_neither_signs_for_the_host_and_no_more_than_ephemeral_certificates(
        self, world, store, enroller, tpms, forge, profile, helpers, how
    ):
        """The gain: a certificate of few days that names an honest SVSM's launch, for a TPM in the host's hands."""
        if how == "checks off":
            enroller = world.enroller(store, judge=without(enroller.desk.judge, self.STOPS))
        else:
            world.apply(store, amd_guest.policy(world))
        gained = Guest(world, enroller, tpms(1)).finish(forge())
        assert helpers.signers(world.authority, gained) == EPHEMERAL_ONLY
        with store.read() as tx:
            assert {row.issuer for row in tx.certificates.latest()} == {
                world.authority.issuer("ephemeral").skid
            }
        assert not filled(store) & LASTING
        for certificate, key in zip(
            helpers.certificates(gained), (tpms(1).ek, tpms(1).iak, tpms(1).idevid), strict=True
        ):
            assert certificate.public_key() == parse_public(key.public).public_key()
            assert world.launch.measurement in certificate.public_bytes(Encoding.DER)

    def test_not_even_with_the_claim_of_another(self, world, store, enroller, tpms, forge, helpers):
        """The room that drafts certificates looks at the profile once more, whatever led there."""
        honest = Submission.parse(world.body(enroller.new_nonce().nonce, tpms(0), helpers.Boot()))
        desk = enroller.desk
        with store.read() as tx:
            view = desk.view(tx, honest, world.time)
        more = {"decision_id": "d", "at": world.time}
        assert plan(desk, honest, view, **more).pieces
        with pytest.raises(LintFailed) as caught:
            plan(desk, Submission.parse(helpers.encode(forge())), view, **more)
        assert "lint.ephemeral" in failed(caught.value.trace)

    def test_cannot_make_evidence_of_profile_1(self, world, enroller, tpms, helpers):
        """Its REPORT_DATA ends in 16 zero bytes, which no SHA-512 of the host's choice does."""
        attacker = tpms(1)
        first = world.request(enroller.new_nonce().nonce, attacker, helpers.Boot())
        data = first.evidence.runtime_data
        report = world.launch.report(hashlib.sha512(data).digest())
        mixed = replace(first, evidence=replace(first.evidence, report=report))
        assert refusal(enroller, helpers.encode(mixed)).rule == "evidence.report-data"
