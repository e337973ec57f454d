"""Which certificates count: a TPM's real ones, and none that differs from them in what matters."""

import json
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import load_der_ocsp_response
from hypothesis import given, settings
from hypothesis import strategies as st
from relying_stage import AT, DAY, SoftSigner, crl_place, loaded, new_signer, provenance, signed

from ca_service.export.relying import (
    CHECKS,
    LARGEST_CERTIFICATE,
    ProvenanceRule,
    Trust,
    judge_certificate,
    lookup,
)
from ca_service.export.relying.answers import answer_problem
from ca_service.export.relying.lists import RevocationList
from ca_service.judgment import BadRequest, Verdict
from ca_service.profiles import EPHEMERAL_LIMIT, Validity, draft_issuing
from ca_service.profiles.structures import ProvenanceValue, encode

KINDS = ("ek", "iak", "idevid")
PROVENANCE = "1.2.840.113556.1.8000.2554.22.90.55.20305.39874.4691.1706394"
CDP, AKI, SAN, EKU, BC = "2.5.29.31", "2.5.29.35", "2.5.29.17", "2.5.29.37", "2.5.29.19"
USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=True,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def refused_by(trace):
    assert not trace.admitted
    return [f.rule for f in trace.findings if f.verdict is Verdict.FAILED]


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_ca_has_issued_counts(stage, judged, kind):
    trace = judged(getattr(stage, kind), kind)
    assert trace.admitted
    assert tuple(f.rule for f in trace.findings) == CHECKS
    assert json.loads(json.dumps(trace.to_json())) == trace.to_json()


def test_what_the_tests_craft_counts_too(stage, judged):
    """So that what refuses their changed ones is the change."""
    assert judged(stage.craft()).admitted
    assert judged(stage.rebuilt(stage.ek, "ek")).admitted


class TestTheChain:
    def test_bytes_that_are_no_certificate(self, stage, judged):
        pem = loaded(stage.ek).public_bytes(Encoding.PEM)
        for der in (b"", b"\x30", pem, stage.ek[:-1], stage.ek + b"\0", b"\0" + stage.ek, stage.ek * 2):
            assert refused_by(judged(der)) == ["relying.readable"]
        long = judged(b"\x30\x82\xff\xff" + bytes(LARGEST_CERTIFICATE))
        assert f"none above {LARGEST_CERTIFICATE}" in long.refusal.reason

    @settings(max_examples=40)
    @given(data=st.binary(max_size=64))
    def test_any_bytes(self, stage, data):
        assert not judge_certificate(data, "ek", stage.trust(), AT).admitted

    @settings(max_examples=60)
    @given(data=st.data())
    def test_any_flipped_bit_is_refused(self, stage, data):
        kind = data.draw(st.sampled_from(KINDS))
        der = bytearray(getattr(stage, kind))
        bit = data.draw(st.integers(0, 8 * len(der) - 1))
        der[bit // 8] ^= 1 << bit % 8
        (rule,) = refused_by(judge_certificate(bytes(der), kind, stage.trust(), AT))
        assert rule in ("relying.readable", "relying.issuer", "relying.signature")

    def test_a_ca_of_the_same_names(self, stage, judged, impostor):
        assert refused_by(judged(impostor["own"])) == ["relying.issuer"]
        assert refused_by(judged(impostor["posing"])) == ["relying.signature"]
        # Even with the impostor among the issuing CAs: only the root is trusted.
        trust = Trust(stage.root.certificate, (*stage.issuers, impostor["ca"]), stage.trust().crls)
        assert refused_by(judged(impostor["own"], trust=trust)) == ["relying.chain"]
        other = Trust(impostor["root"], stage.issuers, stage.trust().crls)
        assert refused_by(judged(stage.ek, trust=other)) == ["relying.chain"]

    def test_an_issuing_ca_that_the_root_has_not_signed(self, stage, judged):
        der = bytearray(stage.issuer("ek").certificate.public_bytes(Encoding.DER))
        der[-1] ^= 1
        trace = judged(
            stage.ek, trust=Trust(stage.root.certificate, (loaded(bytes(der)),), stage.trust().crls)
        )
        assert refused_by(trace) == ["relying.chain"]
        assert "not signed by the trusted root" in trace.refusal.reason

    def test_no_issuing_ca_at_hand(self, stage, judged):
        trust = Trust(stage.root.certificate, (stage.root.certificate,), stage.trust().crls)
        assert refused_by(judged(stage.ek, trust=trust)) == ["relying.issuer"]

    def test_a_certificate_of_the_root_itself(self, stage, judged):
        """keylime would take it, if the root lay in its store."""
        der = signed(stage.draft(issuer=stage.root.info).tbs, stage.root.signer)
        trust = Trust(stage.root.certificate, (*stage.issuers, stage.root.certificate), stage.trust().crls)
        assert refused_by(judged(der, trust=trust)) == ["relying.chain"]

    def test_a_leaf_is_no_issuer(self, stage, judged):
        """A TPM's own key that signs another certificate."""
        leaf = loaded(stage.iak)
        builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(leaf.subject)
        builder = builder.public_key(leaf.public_key()).serial_number(7)
        builder = builder.not_valid_before(AT - DAY).not_valid_after(AT + DAY)
        key_id = leaf.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        builder = builder.add_extension(x509.AuthorityKeyIdentifier(key_id, None, None), critical=False)
        tbs = builder.sign(new_signer().key, hashes.SHA384()).tbs_certificate_bytes
        der = signed(tbs, SoftSigner(stage.tpm._iak))
        trust = Trust(stage.root.certificate, (*stage.issuers, leaf), stage.trust().crls)
        assert refused_by(judged(der, trust=trust)) == ["relying.chain"]

    @pytest.mark.parametrize(
        ("without", "extra", "word"),
        [
            ((BC,), [(x509.BasicConstraints(ca=False, path_length=None), True)], "path length"),
            ((BC,), [(x509.BasicConstraints(ca=True, path_length=None), True)], "path length"),
            ((BC,), [(x509.BasicConstraints(ca=True, path_length=0), False)], "extensions"),
            ((BC,), [], "extensions"),
            ((CDP,), [], "extensions"),
            ((AKI,), [], "root"),
        ],
    )
    def test_an_issuing_ca_of_another_form(self, stage, judged, without, extra, word):
        ca = stage.issuer("ek").certificate.public_bytes(Encoding.DER)
        bad = loaded(stage.rebuilt(ca, "root", without=without, extra=extra))
        trace = judged(stage.ek, trust=Trust(stage.root.certificate, (bad,), stage.trust().crls))
        assert refused_by(trace) == ["relying.chain"]
        assert word in trace.refusal.reason


class TestDates:
    def test_before_and_after(self, stage, judged):
        day = Validity.bounded(AT, 1)
        der = stage.craft(validity=day)
        lists = stage.trust(
            root=stage.list_of("root", made=AT - 30 * DAY, life=60 * DAY),
            ek=stage.list_of("ek", made=AT - 30 * DAY, life=60 * DAY),
        )
        for moment, good in (
            (AT - timedelta(seconds=1), False),
            (AT, True),
            (day.not_after, True),
            (day.not_after + timedelta(seconds=1), False),
        ):
            trace = judged(der, trust=lists, at=moment)
            assert trace.admitted is good
            assert good or refused_by(trace) == ["relying.dates"]

    def test_of_issuer_and_root(self, stage, judged):
        before = stage.root.certificate.not_valid_before_utc - DAY
        found = refused_by(judged(stage.ek, at=before))
        assert {"relying.issuer-dates", "relying.root-dates"} <= set(found)

    def test_an_expired_issuing_ca(self, stage, judged):
        common = {"organization": "Tests", "mode": "simulation", "pair": "default", "issuer": stage.root.info}
        old = stage.issuer("ek")
        draft = draft_issuing(
            "ek",
            public_key=old.signer.public_key(),
            serial=old.certificate.serial_number,
            validity=Validity.bounded(AT - 9 * DAY, 8),
            **common,
        )
        expired = loaded(signed(draft.tbs, stage.root.signer))
        trace = judged(stage.ek, trust=Trust(stage.root.certificate, (expired,), stage.trust().crls))
        assert refused_by(trace) == ["relying.issuer-dates"]

    def test_a_naive_time_is_an_error(self, stage, judged):
        with pytest.raises(BadRequest, match="at: must be aware"):
            judged(stage.ek, at=datetime(2026, 11, 23, 13))  # noqa: DTZ001 - the point


class TestWhatItIs:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("shown", KINDS)
    def test_shown_as_another_kind(self, stage, judged, kind, shown):
        trace = judged(getattr(stage, kind), shown)
        assert trace.admitted is (kind == shown)
        if not trace.admitted:
            assert "relying.kind" in refused_by(trace)

    def test_an_ek_certificate_of_the_devid_ca(self, stage, judged):
        """keylime takes it: whatever an issuer in the store has signed is good for everything."""
        assert refused_by(judged(stage.craft("devid"))) == ["relying.role"]

    def test_an_ephemeral_certificate_if_asked_for_only(self, stage, judged):
        der = stage.craft("ephemeral", validity=Validity.ephemeral(AT, 7, AT + EPHEMERAL_LIMIT))
        assert refused_by(judged(der)) == ["relying.role"]
        assert judged(der, ephemeral=True).admitted

    def test_a_software_key_with_a_certificate_as_for_tls(self, stage, judged):
        """keylime has taken one as IAK and as IDevID."""
        tls = [
            (x509.SubjectAlternativeName([x509.DNSName("host.example")]), False),
            (x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), False),
        ]
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        for role, kind in (("ek", "ek"), ("devid", "iak"), ("devid", "idevid")):
            base = getattr(stage, kind)
            der = stage.rebuilt(base, role, without=(SAN, EKU, "2.5.29.32"), extra=tls, key=key)
            assert {"relying.kind", "relying.profile"} <= set(refused_by(judged(der, kind)))

    @pytest.mark.parametrize(
        ("kind", "without", "extra"),
        [
            ("ek", (SAN,), []),
            ("ek", (BC,), [(x509.BasicConstraints(ca=True, path_length=None), True)]),
            ("ek", ("2.5.29.15",), [(USAGE, True)]),
            ("ek", ("2.5.29.9",), []),
            ("ek", (SAN,), [(x509.SubjectAlternativeName([x509.DNSName("host.example")]), True)]),
            ("iak", (SAN,), [(x509.SubjectAlternativeName([x509.DNSName("host.example")]), False)]),
            ("ek", (), [(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), True)]),
            ("ek", (), [(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), False)]),
            ("iak", (SAN,), []),
            ("idevid", (), [(x509.BasicConstraints(ca=True, path_length=None), True)]),
        ],
    )
    def test_another_form_than_its_profile(self, stage, judged, kind, without, extra):
        role = "ek" if kind == "ek" else "devid"
        der = stage.rebuilt(getattr(stage, kind), role, without=without, extra=extra)
        assert refused_by(judged(der, kind)) == ["relying.profile"]

    @pytest.mark.parametrize("kind", KINDS)
    def test_another_subject(self, stage, judged, kind):
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "host.example")])
        der = stage.rebuilt(getattr(stage, kind), "ek" if kind == "ek" else "devid", subject=name)
        assert refused_by(judged(der, kind)) == ["relying.profile"]

    def test_an_extension_that_cannot_be_read(self, stage, judged):
        junk = x509.UnrecognizedExtension(x509.ObjectIdentifier(PROVENANCE), b"\x30\x01")
        der = stage.rebuilt(stage.ek, "ek", without=(PROVENANCE,), extra=[(junk, False)])
        assert "relying.kind" in refused_by(judged(der))


class TestRevocation:
    def serial(self, stage):
        return loaded(stage.ek).serial_number

    def test_revoked(self, stage, judged):
        trace = judged(stage.ek, trust=stage.trust(ek=stage.list_of("ek", [self.serial(stage)])))
        assert refused_by(trace) == ["relying.revocation"]
        assert "was revoked on 2026-11-23 13:00 UTC" in trace.refusal.reason

    def test_another_certificate_is_revoked(self, stage, judged):
        assert judged(stage.ek, trust=stage.trust(ek=stage.list_of("ek", [7]))).admitted

    def test_what_an_old_list_revokes_stays_revoked(self, stage, judged):
        old = stage.list_of("ek", [self.serial(stage)], made=AT - 9 * DAY)
        trace = judged(stage.ek, trust=stage.trust(old=old))
        assert refused_by(trace) == ["relying.revocation"]

    @pytest.mark.parametrize(("role", "rule"), [("ek", "revocation"), ("root", "issuer-revocation")])
    def test_no_list(self, stage, judged, role, rule):
        trace = judged(stage.ek, trust=stage.trust(**{role: None}))
        assert refused_by(trace) == [f"relying.{rule}"]
        assert ".crl is needed" in trace.refusal.reason

    @pytest.mark.parametrize(("role", "rule"), [("ek", "revocation"), ("root", "issuer-revocation")])
    def test_a_list_of_another_time(self, stage, judged, role, rule):
        for made in (AT - DAY - timedelta(seconds=1), AT + timedelta(minutes=6)):
            trace = judged(stage.ek, trust=stage.trust(**{role: stage.list_of(role, made=made)}))
            assert refused_by(trace) == [f"relying.{rule}"]
        for made in (AT - DAY, AT + timedelta(minutes=5)):
            assert judged(stage.ek, trust=stage.trust(**{role: stage.list_of(role, made=made)})).admitted

    def test_a_fresh_list_beside_an_old_one(self, stage, judged):
        assert judged(stage.ek, trust=stage.trust(old=stage.list_of("ek", made=AT - 9 * DAY))).admitted

    def test_a_list_older_than_allowed(self, stage, judged):
        trust = stage.trust(ek=stage.list_of("ek", made=AT - timedelta(hours=2)))
        assert judged(stage.ek, trust=trust, max_list_age=timedelta(hours=2)).admitted
        trace = judged(stage.ek, trust=trust, max_list_age=timedelta(hours=1))
        assert refused_by(trace) == ["relying.revocation"]

    def test_the_list_that_the_certificate_names(self, stage, judged):
        place = crl_place(loaded(stage.ek))
        assert judged(stage.ek, trust=stage.trust(ek=stage.list_of("ek", scope=place))).admitted
        shard = int(place[-5])
        other = stage.list_of("ek", scope=f"{place[:-5]}{(shard + 1) % 4}.crl")
        assert refused_by(judged(stage.ek, trust=stage.trust(ek=other))) == ["relying.revocation"]

    def test_a_list_that_somebody_else_has_signed(self, stage, judged):
        genuine = stage.lists["ek"]
        for other in (stage.lists["devid"], genuine[:-1] + bytes([genuine[-1] ^ 1])):
            assert refused_by(judged(stage.ek, trust=stage.trust(ek=other))) == ["relying.revocation"]

    def test_a_revoked_issuing_ca(self, stage, judged):
        serial = stage.issuer("ek").certificate.serial_number
        trust = stage.trust(root=stage.list_of("root", [serial]))
        assert refused_by(judged(stage.ek, trust=trust)) == ["relying.issuer-revocation"]
        assert judged(stage.iak, "iak", trust=trust).admitted

    def test_a_certificate_that_names_no_list(self, stage, judged):
        trace = judged(stage.rebuilt(stage.ek, "ek", without=(CDP,)))
        assert "relying.revocation" in refused_by(trace)

    def test_a_flipped_bit_in_any_octet_of_a_list(self, stage):
        issuer = stage.issuer("ek").certificate
        genuine = stage.list_of("ek", [7, 8])
        for place in range(len(genuine)):
            der = bytearray(genuine)
            der[place] ^= 1 << place % 8
            try:
                found = RevocationList.read(bytes(der), "list")
            except BadRequest:
                continue
            assert not found.signed_by(issuer), place

    def test_a_delta_is_no_list(self, stage):
        """It names what is new only, so what it does not name may be revoked."""
        key_id = x509.AuthorityKeyIdentifier(stage.issuer("ek").info.key_id, None, None)
        builder = x509.CertificateRevocationListBuilder().issuer_name(stage.issuer("ek").certificate.subject)
        builder = builder.last_update(AT).next_update(AT + DAY).add_extension(key_id, critical=False)
        key = new_signer().key
        whole = builder.sign(key, hashes.SHA384()).public_bytes(Encoding.DER)
        assert RevocationList.read(whole, "list").scope is None
        delta = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True).sign(key, hashes.SHA384())
        with pytest.raises(
            BadRequest, match="list: is no revocation list of this CA: has a critical extension"
        ):
            RevocationList.read(delta.public_bytes(Encoding.DER), "list")

    def test_lists_that_are_none_of_ours(self, stage):
        for junk in (b"", b"\x30\x00", stage.ek, stage.lists["ek"] + b"\0"):
            with pytest.raises(BadRequest, match=r"crls\[0\]"):
                Trust(stage.root.certificate, stage.issuers, (junk,))


class TestOcsp:
    def refused(self, trace, word):
        assert refused_by(trace) == ["relying.revocation"]
        assert word in trace.refusal.reason

    def test_good(self, stage, judged):
        assert judged(stage.ek, trust=stage.trust(ek=None), ocsp=stage.ocsp(stage.ek)).admitted

    def test_revoked_or_unknown(self, stage, judged):
        self.refused(
            judged(stage.ek, ocsp=stage.ocsp(stage.ek, revoked_at=AT - DAY)), "was revoked on 2026-11-22"
        )
        self.refused(judged(stage.ek, ocsp=stage.ocsp(stage.ek, known=False)), "does not know it")

    def test_a_list_still_revokes(self, stage, judged):
        trust = stage.trust(ek=stage.list_of("ek", [loaded(stage.ek).serial_number], made=AT - 9 * DAY))
        self.refused(judged(stage.ek, trust=trust, ocsp=stage.ocsp(stage.ek)), "was revoked")

    def test_about_another_certificate(self, stage, judged):
        self.refused(judged(stage.ek, ocsp=stage.ocsp(stage.craft())), "not about this")

    def test_of_another_time(self, stage, judged):
        early, late = AT - timedelta(hours=2), AT + timedelta(minutes=6)
        self.refused(judged(stage.ek, ocsp=stage.ocsp(stage.ek, at=early)), "not of this time")
        self.refused(judged(stage.ek, ocsp=stage.ocsp(stage.ek, at=late)), "not of this time")
        self.refused(
            judged(stage.ek, ocsp=stage.ocsp(stage.ek, at=AT - 9 * DAY, life=99 * DAY)), "not of this time"
        )

    def test_of_another_responder(self, stage, judged):
        self.refused(
            judged(stage.ek, ocsp=stage.ocsp(stage.ek, by="devid")), "not of a responder of its issuer"
        )

    def test_signed_by_a_tpm(self, stage, judged):
        """An EK certificate is of the same issuer, and is no responder's."""
        self.refused(judged(stage.ek, ocsp=stage.ocsp(stage.ek, responder=stage.ek)), "no responder's")

    def test_something_critical_that_nobody_knows(self, stage, judged):
        plain, critical = (stage.ocsp(stage.ek, nonce_critical=c) for c in (False, True))
        assert judged(stage.ek, ocsp=plain).admitted
        self.refused(judged(stage.ek, ocsp=critical), "a critical extension")

    def test_no_answer(self, stage, judged):
        self.refused(judged(stage.ek, ocsp=bytes.fromhex("30030a0106")), "gives no answer: unauthorized")

    def test_a_flipped_bit_in_any_octet(self, stage):
        issuer, serial = stage.issuer("ek"), loaded(stage.ek).serial_number
        assert answer_problem(stage.answer, serial, issuer.certificate, issuer.info.key_id, AT) is None
        # The count of unused bits before the signature is read by nobody, and changes nothing that is said.
        unread = stage.answer.index(load_der_ocsp_response(stage.answer).signature) - 1
        for place in set(range(len(stage.answer))) - {unread}:
            answer = bytearray(stage.answer)
            answer[place] ^= 1 << place % 8
            assert answer_problem(bytes(answer), serial, issuer.certificate, issuer.info.key_id, AT), place

    @settings(max_examples=20)
    @given(answer=st.binary(max_size=64))
    def test_any_bytes(self, stage, answer):
        assert not judge_certificate(stage.ek, "ek", stage.trust(), AT, ocsp=answer).admitted


ALLOWED = {
    "kbs_keys": ["NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"],
    "measurements": [bytes(range(48)).hex()],
    "resources": ["default/vtpm/other"],
    "policies": ["ab" * 32],
    "profiles": ["svsm-vtpm-ca:1"],
}


class TestProvenance:
    def rule(self, **members):
        return ProvenanceRule(**{name: frozenset(value) for name, value in members.items()})

    def test_it_must_be_there(self, stage, judged):
        der = stage.rebuilt(stage.ek, "ek", without=(PROVENANCE,))
        assert {"relying.provenance", "relying.profile"} == set(refused_by(judged(der)))

    def test_a_measurement_of_another_length(self, stage, judged):
        value = ProvenanceValue(
            version=1,
            evidence_profile="svsm-vtpm-ca:1",
            kbs_thumbprint=bytes(32),
            resource="default/vtpm/x",
            measurement=bytes(47),
            policy_digest=bytes(32),
            decision_id="d",
        )
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(PROVENANCE), encode(value))
        der = stage.rebuilt(stage.ek, "ek", without=(PROVENANCE,), extra=[(extension, False)])
        assert refused_by(judged(der)) == ["relying.provenance"]

    def test_all_members_agree(self, stage, judged):
        assert judged(stage.craft(), rule=self.rule(**ALLOWED)).admitted

    @pytest.mark.parametrize(
        ("member", "other"),
        [
            ("kbs_keys", ["A" * 43]),
            ("measurements", ["00" * 48]),
            ("resources", ["default/vtpm/another", "default/*/another"]),
            ("policies", ["00" * 32]),
            ("profiles", ["amd-svsm-vtpm:0"]),
            ("kbs_keys", []),
        ],
    )
    def test_one_member_differs(self, stage, judged, member, other):
        trace = judged(stage.craft(), rule=self.rule(**(ALLOWED | {member: other})))
        assert refused_by(trace) == ["relying.provenance-rule"]

    def test_patterns_of_resources(self, stage, judged):
        for pattern in ("default/vtpm/*", "*/*/*", "*/vtpm/other"):
            assert judged(stage.craft(), rule=self.rule(resources=[pattern])).admitted

    def test_evidence_without_a_grant(self, stage, judged):
        der = stage.craft(
            provenance=provenance(kbs_thumbprint=None, resource=None, profile="amd-svsm-vtpm:0")
        )
        assert judged(der, rule=self.rule(measurements=ALLOWED["measurements"])).admitted
        for member in ("kbs_keys", "resources"):
            trace = judged(der, rule=self.rule(**{member: ALLOWED[member]}))
            assert refused_by(trace) == ["relying.provenance-rule"]
            assert "states no" in trace.refusal.reason


class TestTrust:
    def test_a_root_of_another_kind(self, stage, impostor):
        for other in (stage.issuer("ek").certificate, loaded(stage.ek)):
            with pytest.raises(BadRequest, match="root: is no root of a vTPM CA"):
                Trust(other, stage.issuers)

    def test_a_root_that_does_not_sign_itself(self, stage, impostor):
        der = bytearray(impostor["root"].public_bytes(Encoding.DER))
        der[-1] ^= 1
        with pytest.raises(BadRequest, match="not signed by its own key"):
            Trust(loaded(bytes(der)), stage.issuers)


def test_nobody_is_sent_anywhere_by_a_stranger(stage, impostor):
    found = lookup(stage.ek, "ek", stage.trust())
    assert found.serial == loaded(stage.ek).serial_number
    assert (found.leaf_list, found.responder) == (crl_place(loaded(stage.ek)), "http://ca.test/ocsp")
    assert found.root_list == crl_place(stage.issuer("ek").certificate)
    assert lookup(impostor["own"], "ek", stage.trust()) is None
    assert lookup(impostor["posing"], "ek", stage.trust()) is None
    assert lookup(b"", "ek", stage.trust()) is None
    trust = Trust(stage.root.certificate, (*stage.issuers, impostor["ca"]), stage.trust().crls)
    assert lookup(impostor["own"], "ek", trust) is None
