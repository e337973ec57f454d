"""Which quotes count: a certified TPM's real ones, and none that differs from them in what matters."""

import hashlib
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st
from quoting_tpm import NONCE, PCRS, sized
from relying_stage import AT, DAY, loaded, new_signer, provenance, signed

from ca_service.export.quote import CHECKS, ExpectedPcrs, PcrValues
from ca_service.export.quote.checks import QUOTE_CHECKS
from ca_service.export.quote.pcrs import selection_of
from ca_service.export.quote.subject import QuoteSubject, read_view
from ca_service.export.relying import ProvenanceRule
from ca_service.judgment import BadRequest, Verdict, judge_all
from ca_service.profiles import Validity, draft_devid, draft_iak_webauthn, new_serial, oids
from ca_service.profiles.view import PROVENANCE
from ca_service.residency.quote import PcrSelection
from vtpm.wire.templates import Role, name

KINDS = ("iak", "ek", "idevid")
NOTHING = dict.fromkeys(("ek", "idevid"))


def refused_by(verdict):
    failed = [f.rule for f in verdict.trace.findings if f.verdict is Verdict.FAILED]
    assert verdict.admitted == (not failed)
    return failed


@pytest.fixture(scope="module")
def judged(scene):
    """Judges a changed quote with the certificates left aside: whose it is changes nothing in what is signed."""
    iak = read_view(scene.stage.iak)

    def judge(checks=QUOTE_CHECKS, **changes):
        subject = QuoteSubject(
            replace(scene.quote, **changes), NONCE, iak, None, None, None, None, expected=None
        )
        return judge_all(checks, subject), subject.pcrs

    assert judge()[0].admitted
    return judge


@pytest.fixture
def soft(scene):
    return scene.enrol("H-3")


class TestRealQuotes:
    def test_is_admitted(self, scene):
        verdict = scene.verify()
        assert verdict.admitted, verdict.refusal
        assert verdict.provenance.resource == "default/vtpm/guest-a"
        assert verdict.provenance.measurement == scene.stage.world.launch.measurement
        assert set(verdict.pcrs.banks["sha256"]) == {0, 1, 2, 7}
        extended = hashlib.sha256(bytes(32) + bytes.fromhex("ab" * 32)).digest()
        assert verdict.pcrs.value("sha256", 7) == extended
        assert [one.kind for one in verdict.certificates] == list(KINDS)

    def test_the_iak_certificate_alone(self, scene):
        verdict = scene.verify(**NOTHING)
        assert verdict.admitted
        assert verdict.provenance.kbs_thumbprint

    def test_banks_in_any_order_and_all_pcrs(self, scene):
        for pcrs in ("sha1:3+sha256:all", "sha512:0,23+sha384:4+sha256:7"):
            assert scene.verify(scene.tools.quote(pcrs, name="banks")).admitted, pcrs

    def test_a_plain_signature(self, scene):
        assert scene.verify(scene.tools.quote(name="plain", extra=("-f", "plain"))).admitted

    def test_every_check_looks(self, scene):
        rules = [f.rule for f in scene.verify().quote.findings]
        assert rules == [rule for rule in CHECKS if not rule.startswith("quote.ak-")]

    def test_a_flipped_bit_in_any_octet(self, scene, judged):
        _, values = judged()
        # The signature is not over the values, and takes the most time.
        unsigned = tuple(check for check in QUOTE_CHECKS if check.id != "quote.signature")
        for part in ("attest", "signature", "pcrs"):
            original = getattr(scene.quote, part)
            for place in range(len(original)):
                changed = bytearray(original)
                changed[place] ^= 1 << place % 8
                checks = unsigned if part == "pcrs" else QUOTE_CHECKS
                trace, read = judged(checks, **{part: bytes(changed)})
                # tpm2-tools write whole arrays: nobody reads what lies beyond their ends.
                assert not trace.admitted or (part == "pcrs" and read == values), (part, place)

    @settings(max_examples=100)
    @given(data=st.data())
    def test_mangled(self, scene, judged, data):
        part = data.draw(st.sampled_from(["attest", "signature", "pcrs"]))
        original = getattr(scene.quote, part)
        start = data.draw(st.integers(0, len(original)))
        end = data.draw(st.integers(start, min(len(original), start + 40)))
        mangled = original[:start] + data.draw(st.binary(max_size=40)) + original[end:]
        trace, read = judged(**{part: mangled})
        assert not trace.admitted or mangled == original or (part == "pcrs" and read == judged()[1])

    @settings(max_examples=100)
    @given(attest=st.binary(max_size=300), signature=st.binary(max_size=300), pcrs=st.binary(max_size=900))
    def test_made_up(self, judged, attest, signature, pcrs):
        for start in (b"", bytes.fromhex("ff5443478018")):
            trace, _ = judged(attest=start + attest, signature=signature, pcrs=pcrs)
            assert [f.rule for f in trace.findings] == [check.id for check in QUOTE_CHECKS]
            assert "quote.signature" in [f.rule for f in trace.findings if f.verdict is Verdict.FAILED]


class TestOneFlaw:
    @pytest.mark.parametrize(
        ("flaw", "rules"),
        [
            ({"extra": bytes(32)}, ["nonce"]),
            ({"extra": b""}, ["nonce"]),
            ({"extra": NONCE + b"\0"}, ["nonce"]),
            ({"signer": b"\0\x0c" + bytes(48)}, ["signer"]),
            ({"signer": b""}, ["signer"]),
            ({"safe": 0}, ["clock-safe"]),
            ({"firmware": 0x2019102300163636}, ["firmware"]),
            ({"digest": bytes(48)}, ["pcr-digest"]),
            ({"digest_by": 0x000B}, ["pcr-digest"]),
            ({"selections": ()}, ["pcr-selection", "pcr-digest"]),
            ({"selections": (PcrSelection(0x000B, (0, 1, 7)),)}, ["pcr-selection"]),
            (
                {"selections": (*selection_of(PCRS.banks), PcrSelection(0x000C, (1,)))},
                ["pcr-selection", "pcr-digest"],
            ),
            (
                {"selections": (*selection_of(PCRS.banks), PcrSelection(0x0012, (1,)))},
                ["pcr-selection", "pcr-digest"],
            ),
        ],
    )
    def test_properly_signed(self, scene, soft, flaw, rules):
        if flaw.get("selections") == ():
            flaw = flaw | {"digest": bytes(48)}
        assert scene.verify(soft.quote(), **soft.given).admitted
        found = refused_by(scene.verify(soft.quote(**flaw), **soft.given))
        assert found == [f"quote.{rule}" for rule in rules]

    @pytest.mark.parametrize(
        ("flaw", "rules"),
        [
            ({"tail": b"\0"}, {"form"}),
            ({"safe": 2}, {"form"}),
            ({"magic": 0xFF544346}, {"magic", "form"}),
            ({"type": 0x8017}, {"type", "form"}),
        ],
    )
    def test_no_quote_at_all(self, scene, soft, flaw, rules):
        found = refused_by(scene.verify(soft.quote(**flaw), **soft.given))
        assert {f"quote.{rule}" for rule in rules} <= set(found)
        assert "quote.signature" not in found

    def test_an_empty_bank_of_a_tpm_that_has_it_not(self, scene, soft):
        selections = (PcrSelection(0x0012, ()), *selection_of(PCRS.banks))
        assert scene.verify(soft.quote(selections=selections), **soft.given).admitted

    def test_values_that_were_not_quoted(self, scene, soft):
        more = PcrValues({**PCRS.banks, "sha384": {3: bytes(48)}})
        quote = replace(soft.quote(), pcrs=more)
        assert refused_by(scene.verify(quote, **soft.given)) == ["quote.pcr-selection"]

    @pytest.mark.parametrize("pcrs", [b"", b"junk", bytes(116)])
    def test_values_that_cannot_be_read(self, scene, soft, pcrs):
        found = refused_by(scene.verify(replace(soft.quote(), pcrs=pcrs), **soft.given))
        rules = ["pcr-digest"] if len(pcrs) == 3 * 32 + 20 else ["pcr-values", "pcr-selection", "pcr-digest"]
        assert found == [f"quote.{rule}" for rule in rules]

    def test_another_value(self, scene, soft):
        other = PcrValues({**PCRS.banks, "sha1": {9: bytes([1]) * 20}})
        assert refused_by(scene.verify(replace(soft.quote(), pcrs=other), **soft.given)) == [
            "quote.pcr-digest"
        ]


class TestSigners:
    @pytest.mark.parametrize("iak", ["H-1", "H-2", "H-3", "H-4"])
    def test_every_kind_of_iak(self, scene, iak):
        soft = scene.enrol(iak)
        assert scene.verify(soft.quote(), **soft.given).admitted
        wrong = replace(soft.quote(), signature=soft.tpm._signature(b"something else"))
        assert refused_by(scene.verify(wrong, **soft.given)) == ["quote.signature"]

    def test_another_scheme_than_the_keys(self, scene):
        soft = scene.enrol("H-1")
        quote = soft.quote()
        for scheme in ("0014000b", "0016000c"):
            other = replace(quote, signature=bytes.fromhex(scheme) + quote.signature[4:])
            assert refused_by(scene.verify(other, **soft.given)) == ["quote.scheme", "quote.signature"]
        # No TPM signs so with this key; whoever does has the key itself.
        made = soft.tpm._iak.sign(quote.attest, padding.PKCS1v15(), hashes.SHA256())
        other = replace(quote, signature=bytes.fromhex("0014000b") + sized(made))
        assert refused_by(scene.verify(other, **soft.given)) == ["quote.scheme", "quote.signature"]

    def test_a_software_key_that_poses_as_the_iak(self, scene):
        """It signs a perfect statement, and even names the IAK."""
        key = ec.generate_private_key(ec.SECP384R1())
        r, s = decode_dss_signature(key.sign(scene.quote.attest, ec.ECDSA(hashes.SHA384())))
        made = bytes.fromhex("0018000c") + b"".join(sized(n.to_bytes(48, "big")) for n in (r, s))
        for signature in (made, encode_dss_signature(r, s)):
            verdict = scene.verify(replace(scene.quote, signature=signature))
            assert refused_by(verdict) == ["quote.signature"]
            assert (verdict.pcrs, verdict.provenance) == (None, None)

    def test_numbers_that_are_longer_than_the_key(self, scene):
        """The same numbers, with zeros before them: a signature has no other form for that."""
        head, r, s = (scene.quote.signature[start:end] for start, end in ((0, 4), (6, 54), (56, 104)))
        assert scene.quote.signature == head + sized(r) + sized(s)
        longer = head + sized(b"\0" + r) + sized(s)
        assert refused_by(scene.verify(replace(scene.quote, signature=longer))) == ["quote.signature"]

    def test_another_tpms_quote(self, scene, soft):
        found = refused_by(scene.verify(soft.quote()))
        assert found == ["quote.signature", "quote.signer", "quote.firmware"]
        assert refused_by(scene.verify(scene.quote, **soft.given)) == [
            "quote.signature",
            "quote.signer",
            "quote.firmware",
        ]

    def test_another_nonce(self, scene):
        assert refused_by(scene.verify(nonce=NONCE[:-1])) == ["quote.nonce"]
        assert refused_by(scene.verify(nonce=bytes(32))) == ["quote.nonce"]

    def test_no_nonce(self, scene):
        for nonce in (b"", bytes(65)):
            with pytest.raises(BadRequest, match="nonce: must have 1 to 64 octets"):
                scene.verify(nonce=nonce)

    def test_a_naive_time(self, scene):
        with pytest.raises(BadRequest, match="at: must be aware"):
            scene.verify(at=datetime(2026, 11, 23, 13))  # noqa: DTZ001 - the point


class TestCertificates:
    def test_of_another_role(self, scene):
        found = refused_by(scene.verify(iak=scene.stage.idevid))
        assert {"relying.kind", "quote.signature", "quote.signer"} <= set(found)
        assert "relying.kind" in refused_by(scene.verify(iak=scene.stage.ek, **NOTHING))
        assert "relying.kind" in refused_by(scene.verify(ek=scene.stage.iak))
        assert "relying.kind" in refused_by(scene.verify(idevid=scene.stage.iak))

    def test_the_idevid_signs_what_it_is_given(self, scene, soft):
        """It is certified by the same CA and not restricted, so a guest has it sign any structure."""
        quote = soft.quote()
        signature = soft.tpm._idevid.sign(quote.attest, ec.ECDSA(hashes.SHA256()))
        made = replace(quote, signature=signature)
        assert not scene.verify(made, **soft.given).admitted
        assert "relying.kind" in refused_by(scene.verify(made, **soft.given | {"iak": soft.given["idevid"]}))

    @pytest.mark.parametrize("kind", ["ek", "idevid"])
    def test_of_another_tpm(self, scene, soft, kind):
        found = refused_by(scene.verify(**{kind: soft.given[kind]}))
        firmware = ["quote.firmware"] if kind == "ek" else []
        assert found == [*firmware, f"quote.same-{kind}"]

    def test_that_are_none(self, scene):
        for junk in (b"", b"\x30\x00", bytes(5000), scene.stage.iak + b"\0"):
            verdict = scene.verify(iak=junk, ek=junk, idevid=junk)
            found = refused_by(verdict)
            assert found[:3] == ["relying.readable"] * 3
            assert {"quote.same-ek", "quote.same-idevid"} <= set(found)
            assert [f.reason[:4] for f in verdict.trace.findings if f.rule == "relying.readable"] == [
                "IAK ",
                "EK c",
                "IDev",
            ]

    @pytest.mark.parametrize(("kind", "role"), [("iak", "devid"), ("idevid", "devid"), ("ek", "ek")])
    def test_revoked(self, scene, kind, role):
        serial = loaded(getattr(scene.stage, kind)).serial_number
        trust = scene.stage.trust(**{role: scene.stage.list_of(role, [serial])})
        assert refused_by(scene.verify(trust=trust)) == ["relying.revocation"]

    def test_a_revoked_issuing_ca(self, scene):
        serial = scene.stage.issuer("devid").certificate.serial_number
        trust = scene.stage.trust(root=scene.stage.list_of("root", [serial]))
        assert refused_by(scene.verify(trust=trust, **NOTHING)) == ["relying.issuer-revocation"]

    def test_without_lists(self, scene):
        trust = scene.stage.trust(**dict.fromkeys(scene.stage.lists))
        found = refused_by(scene.verify(trust=trust, **NOTHING))
        assert found == ["relying.revocation", "relying.issuer-revocation"]

    def test_expired(self, scene):
        iak = self.certified(scene, validity=Validity.bounded(AT - 9 * DAY, 8))
        assert refused_by(scene.verify(iak=iak)) == ["relying.dates"]
        assert scene.verify(iak=self.certified(scene)).admitted

    def test_lists_of_another_time(self, scene):
        assert set(refused_by(scene.verify(at=AT + 2 * DAY))) == {
            "relying.revocation",
            "relying.issuer-revocation",
        }
        old = scene.stage.trust(devid=scene.stage.list_of("devid", made=AT - timedelta(hours=2)))
        assert scene.verify(trust=old).admitted
        assert "relying.revocation" in refused_by(scene.verify(trust=old, max_list_age=timedelta(hours=1)))

    def test_of_a_ca_of_the_same_name(self, scene):
        """keylime looks at the name first; here nothing that it says is looked at."""
        draft = self.certified(scene)
        impostor = signed(loaded(draft).tbs_certificate_bytes, new_signer())
        assert refused_by(scene.verify(iak=impostor)) == ["relying.signature"]

    def test_an_ephemeral_one_if_asked_for_only(self, scene):
        life = Validity.ephemeral(AT, 7, AT + 9 * DAY)
        iak = self.certified(scene, "ephemeral", validity=life)
        assert refused_by(scene.verify(iak=iak)) == ["relying.role"]
        assert scene.verify(iak=iak, ephemeral=True).admitted

    def test_a_provenance_that_the_rule_does_not_allow(self, scene):
        good = ProvenanceRule(resources=frozenset({"default/vtpm/*"}))
        assert scene.verify(rule=good).admitted
        measurement, resource = frozenset({"00" * 48}), frozenset({"default/other/*"})
        for bad in (ProvenanceRule(measurements=measurement), ProvenanceRule(resources=resource)):
            assert refused_by(scene.verify(rule=bad)) == ["relying.provenance-rule"] * 3

    def test_what_the_iak_certificate_leaves_to_the_ek_certificate(self, scene):
        """One that is short of room names no resource."""
        iak = self.certified(scene, provenance=provenance(resource=f"default/vtpm/{'x' * 600}"))
        assert read_view(iak).extension(PROVENANCE).value.resource is None
        rule = ProvenanceRule(resources=frozenset({"default/vtpm/*"}))
        assert scene.verify(iak=iak, idevid=None).admitted
        assert scene.verify(iak=iak, idevid=None, rule=rule).admitted
        alone = scene.verify(iak=iak, rule=rule, **NOTHING)
        assert refused_by(alone) == ["relying.provenance-rule"]

    def test_a_certificate_of_an_earlier_release(self, scene):
        """Its provenance has the former id."""
        stage = scene.stage
        value = read_view(stage.iak).extension(PROVENANCE).der
        former = x509.UnrecognizedExtension(oids.FORMER_PROVENANCE, value)
        iak = stage.rebuilt(stage.iak, "devid", without=(PROVENANCE,), extra=[(former, False)])
        verdict = scene.verify(iak=iak, **NOTHING)
        assert verdict.admitted, verdict.refusal
        assert verdict.provenance.resource == "default/vtpm/guest-a"

    def test_an_iak_certificate_for_webauthn(self, scene):
        """It states the firmware version itself."""
        for version, wrong in (("20191023", []), ("20191024", ["quote.firmware"])):
            names = {"vendor": "SW   TPM", "firmware": version + "00163636"}
            iak = self.certified(scene, draft=draft_iak_webauthn, **names)
            assert refused_by(scene.verify(iak=iak, **NOTHING)) == wrong

    def certified(self, scene, role="devid", draft=draft_devid, **changes):
        """A certificate of the real IAK as the CA would issue it, but for what is changed."""
        stage = scene.stage
        values = {
            "public": scene.tpm.keys.iak.public,
            "ek_name": name(scene.tpm.ek.public),
            "manufacturer": "49424d00",
            "ek_serial": loaded(stage.ek).serial_number,
            "ek_aki": stage.issuer("ek").info.key_id,
            "ek_digest": hashlib.sha256(stage.ek).hexdigest(),
            "serial": new_serial(42, lambda n: bytes([11] * n)),
            "validity": Validity.device_lifetime(AT),
            "issuer": stage.issuer(role).info,
            "provenance": provenance(),
        }
        made = draft(*([Role.IAK] if draft is draft_devid else []), **(values | changes))
        return signed(made.tbs, stage.issuer(role).signer)


class TestExpectedPcrs:
    def test_good_values(self, scene):
        values = scene.verify().pcrs
        assert scene.verify(expected=ExpectedPcrs.exactly(values)).admitted
        several = {7: frozenset({bytes(32), values.value("sha256", 7)})}
        assert scene.verify(expected=ExpectedPcrs({"sha256": several})).admitted

    def test_another_value(self, scene):
        verdict = scene.verify(expected=ExpectedPcrs({"sha256": {7: frozenset({bytes(32)})}}))
        assert refused_by(verdict) == ["quote.pcrs"]
        assert verdict.refusal.reason == "PCR 7 of bank sha256 has another value"
        assert verdict.refusal.expected == "00" * 32

    @pytest.mark.parametrize("pcr", [("sha256", 3), ("sha1", 0)])
    def test_one_that_is_not_quoted(self, scene, pcr):
        bank, number = pcr
        size = {"sha1": 20, "sha256": 32}[bank]
        verdict = scene.verify(expected=ExpectedPcrs({bank: {number: frozenset({bytes(size)})}}))
        assert refused_by(verdict) == ["quote.pcrs"]
        assert "is not quoted" in verdict.refusal.reason
