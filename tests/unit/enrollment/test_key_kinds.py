"""Every kind of TPM key from nonce to certificate, several EKs, and the two forms of an IAK's certificate."""

import hashlib
import json
from dataclasses import replace

import amd_guest
import pytest
from amd_guest import Guest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID

from ca_service.judgment import BadRequest, Refused
from ca_service.policy import load
from ca_service.profiles import oids, structures
from ca_service.store import CertificateState
from vtpm.wire.amd_evidence import SERVICES_PROFILE
from vtpm.wire.encoding import b64url, unb64url
from vtpm.wire.enrollment import CertificatesReply, ChallengeReply
from vtpm.wire.public_area import parse_public
from vtpm.wire.templates import Role, name, templates

EKS = [chosen.id for chosen in templates(Role.EK)]
IDENTITIES = [chosen.id for chosen in templates(Role.IAK)]
LASTING = [("ek", 1), ("devid", 1), ("devid", 1)]
NV_SIZE = 2048
FOUR = ("L-2", "L-1", "H-3", "H-4")


def every_kind(text: str, iak_profile: str = "iak") -> str:
    """The policy with all templates admitted."""
    return (
        text.replace('ek = ["L-1"]', f"ek = {json.dumps(EKS)}")
        .replace('iak = ["H-3"]', f"iak = {json.dumps(IDENTITIES)}")
        .replace('idevid = ["H-3"]', f'idevid = {json.dumps(IDENTITIES)}\niak_profile = "{iak_profile}"')
    )


@pytest.fixture
def store(world, store):
    world.apply(store, every_kind(world.policy()))
    return store


@pytest.fixture
def fresh(world, enroller, helpers):
    """Makes a request body for a new nonce."""
    return lambda tpm, **boot: world.body(enroller.new_nonce().nonce, tpm, helpers.Boot(**boot))


def extension(certificate: x509.Certificate, oid):
    return certificate.extensions.get_extension_for_oid(oid)


def named_ek(certificate: x509.Certificate) -> str:
    """The EK certificate's digest in a permanentIdentifier."""
    names = extension(certificate, ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    (value,) = (
        n.value for n in names if isinstance(n, x509.OtherName) and n.type_id == oids.PERMANENT_IDENTIFIER
    )
    return structures.decode(structures.PermanentIdentifier, value).identifier_value


def digest(certificate: x509.Certificate) -> str:
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def check_keys(reply: bytes, tpm, helpers) -> None:
    """Each certificate is about the key that was stated in its place, and names the template."""
    stated = (*tpm.eks, tpm.iak, tpm.idevid)
    entries = CertificatesReply.parse(reply).entries
    for key, entry, certificate in zip(stated, entries, helpers.certificates(reply), strict=True):
        assert entry.template == key.template
        assert certificate.public_key() == parse_public(key.public).public_key()
        assert len(entry.certificate) <= NV_SIZE


@pytest.mark.parametrize("ek", EKS)
def test_every_kind_of_ek(world, enroller, tpm_of, helpers, ek):
    tpm = tpm_of((ek,))
    reply = helpers.issue(world, enroller, tpm)
    assert helpers.signers(world.authority, reply) == LASTING
    check_keys(reply, tpm, helpers)
    first, iak, idevid = helpers.certificates(reply)
    usage = extension(first, ExtensionOID.KEY_USAGE).value
    is_rsa = isinstance(first.public_key(), rsa.RSAPublicKey)
    assert (usage.key_encipherment, usage.key_agreement) == (is_rsa, not is_rsa)
    assert named_ek(iak) == named_ek(idevid) == digest(first)


@pytest.mark.parametrize("identity", IDENTITIES)
def test_every_kind_of_identity(world, enroller, tpm_of, helpers, identity):
    tpm = tpm_of(("L-2",), iak=identity, idevid=identity)
    reply = helpers.issue(world, enroller, tpm)
    assert helpers.signers(world.authority, reply) == LASTING
    check_keys(reply, tpm, helpers)


@pytest.mark.parametrize("identity", IDENTITIES)
def test_a_proof_by_an_iak_of_any_kind_must_hold(world, enroller, tpm_of, helpers, identity):
    request = world.request(enroller.new_nonce().nonce, tpm_of(("L-2",), iak=identity))
    signature = bytearray(request.certify.signature)
    signature[-1] ^= 1
    spoilt = replace(request, certify=replace(request.certify, signature=bytes(signature)))
    with pytest.raises(Refused) as caught:
        enroller.enroll(helpers.encode(spoilt))
    assert caught.value.rule == "certify.signature"


class TestSeveralEks:
    @pytest.mark.parametrize("eks", [("H-3", "L-1"), FOUR], ids="+".join)
    def test_all_are_challenged_and_the_first_one_names(self, world, enroller, tpm_of, helpers, fresh, eks):
        tpm = tpm_of(eks)
        challenge = enroller.enroll(fresh(tpm))
        challenges = ChallengeReply.parse(challenge.body).challenges
        assert [c.ek for c in challenges] == [name(ek.public) for ek in tpm.eks]
        reply = enroller.activate(*helpers.answer(tpm, challenge.body))
        assert helpers.signers(world.authority, reply) == [("ek", 1)] * len(eks) + LASTING[1:]
        check_keys(reply, tpm, helpers)
        *found, iak, idevid = helpers.certificates(reply)
        assert named_ek(iak) == named_ek(idevid) == digest(found[0])
        (serial,) = iak.subject.get_attributes_for_oid(x509.NameOID.SERIAL_NUMBER)
        assert serial.value == hashlib.sha256(name(tpm.ek.public)).hexdigest()[:32]

    @pytest.mark.parametrize("wrong", range(len(FOUR)))
    def test_one_wrong_answer_ends_it(self, store, enroller, tpm_of, helpers, fresh, wrong):
        tpm = tpm_of(FOUR)
        enrollment_id, good = helpers.answer(tpm, enroller.enroll(fresh(tpm)).body)
        secrets = [bytearray(unb64url(text, "secret")) for text in json.loads(good)["secrets"]]
        secrets[wrong][-1] ^= 1
        self.refused_for_good(store, enroller, enrollment_id, secrets, good)

    def test_right_answers_in_the_wrong_order_are_wrong(self, store, enroller, tpm_of, helpers, fresh):
        tpm = tpm_of(FOUR)
        enrollment_id, good = helpers.answer(tpm, enroller.enroll(fresh(tpm)).body)
        secrets = [unb64url(text, "secret") for text in json.loads(good)["secrets"]]
        assert len(set(secrets)) == len(FOUR)
        swapped = [*secrets[:2], *reversed(secrets[2:])]
        self.refused_for_good(store, enroller, enrollment_id, swapped, good)

    def test_an_answer_too_few_is_wrong(self, store, enroller, tpm_of, helpers, fresh):
        tpm = tpm_of(FOUR)
        enrollment_id, good = helpers.answer(tpm, enroller.enroll(fresh(tpm)).body)
        secrets = [unb64url(text, "secret") for text in json.loads(good)["secrets"]]
        self.refused_for_good(store, enroller, enrollment_id, secrets[:-1], good)

    def refused_for_good(self, store, enroller, enrollment_id, secrets, good) -> None:
        wrong = json.dumps({"secrets": [b64url(bytes(secret)) for secret in secrets]}).encode()
        with pytest.raises(Refused) as caught:
            enroller.activate(enrollment_id, wrong)
        assert caught.value.rule == "activation.secret"
        with pytest.raises(Refused) as caught:
            enroller.activate(enrollment_id, good)
        assert caught.value.rule == "activation.open"
        with store.read() as tx:
            assert tx.certificates.latest() == []

    def test_another_tpms_ek_does_not_open_for_this_one(self, enroller, tpm_of, tpms, helpers, fresh):
        """Who states a second EK that is not in the TPM cannot answer its challenge."""
        tpm, other = tpm_of(("L-2",)), tpms(0)
        stolen = tpm_of(("L-2", "L-1"))
        stolen._others = [(other._ek, other.ek)]
        reply = enroller.enroll(fresh(stolen))
        challenges = ChallengeReply.parse(reply.body).challenges
        assert tpm.activate(challenges[0].credential_blob, challenges[0].secret)
        with pytest.raises((AssertionError, ValueError)):
            tpm_of(("L-2", "L-1")).activate(challenges[1].credential_blob, challenges[1].secret, 1)

    def test_a_known_tpm_in_another_order_is_the_same(self, world, enroller, tpm_of, helpers, fresh):
        first = helpers.issue(world, enroller, tpm_of(("H-3", "L-1")))
        again = enroller.enroll(fresh(tpm_of(("L-1", "H-3")), certify=False))
        assert again.status == 200
        one, two = helpers.ders(first), helpers.ders(again.body)
        assert (two[0], two[1]) == (one[1], one[0])
        assert two[2:] == one[2:]

    @pytest.mark.parametrize("eks", [("H-3",), ("H-3", "L-1", "L-2")], ids="+".join)
    def test_with_more_or_fewer_it_is_another_tpm(self, world, enroller, tpm_of, helpers, fresh, eks):
        helpers.issue(world, enroller, tpm_of(("H-3", "L-1")))
        with pytest.raises(Refused) as caught:
            enroller.enroll(fresh(tpm_of(eks)))
        assert caught.value.rule == "ledger.instance-occupied"

    def test_five_are_too_many(self, enroller, tpm_of, fresh):
        with pytest.raises(BadRequest) as caught:
            enroller.enroll(fresh(tpm_of((*FOUR, "H-2"))))
        assert caught.value.path == "evidence.runtime_data.tpm.ek"

    def test_one_of_a_kind(self, enroller, tpm_of, tpms, fresh):
        twin = tpm_of(("L-1", "L-2"))
        twin._others = [(tpms(0)._ek, tpms(0).ek)]
        with pytest.raises(Refused) as caught:
            enroller.enroll(fresh(twin))
        assert caught.value.rule == "tpm.keys-distinct"


class TestTheWebauthnForm:
    @pytest.fixture
    def webauthn(self, world):
        return every_kind(world.policy(), "iak-webauthn")

    def check_form(self, iak: x509.Certificate, ek: x509.Certificate) -> None:
        """An empty subject, and a critical name that tells the TPM as an EK certificate does."""
        assert list(iak.subject) == []
        names = extension(iak, ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
        assert names.critical
        (tpm,) = names.value.get_values_for_type(x509.DirectoryName)
        ek_names = extension(ek, ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
        assert [tpm] == ek_names.get_values_for_type(x509.DirectoryName)
        assert list(extension(iak, ExtensionOID.EXTENDED_KEY_USAGE).value) == [oids.AIK_CERTIFICATE]
        assert named_ek(iak) == digest(ek)

    @pytest.mark.parametrize("identity", IDENTITIES)
    def test_of_every_kind_of_iak(self, world, store, enroller, tpm_of, helpers, webauthn, identity):
        world.apply(store, webauthn)
        tpm = tpm_of(("L-2",), iak=identity)
        reply = helpers.issue(world, enroller, tpm)
        assert helpers.signers(world.authority, reply) == LASTING
        check_keys(reply, tpm, helpers)
        ek, iak, idevid = helpers.certificates(reply)
        self.check_form(iak, ek)
        assert len(idevid.subject) == 2
        with store.read() as tx:
            assert sorted(row.profile for row in tx.certificates.latest()) == ["ek", "iak-webauthn", "idevid"]

    def test_a_known_tpm_gets_the_other_form_and_keeps_the_rest(
        self, world, store, enroller, tpm_of, helpers, fresh, webauthn
    ):
        tpm = tpm_of(("L-2",))
        before = helpers.ders(helpers.issue(world, enroller, tpm))
        world.apply(store, webauthn)
        with pytest.raises(Refused) as caught:
            enroller.enroll(fresh(tpm, certify=False))
        assert caught.value.code == "certify-required"
        after = helpers.issue(world, enroller, tpm)
        ek, iak, idevid = helpers.ders(after)
        assert (ek, idevid) == (before[0], before[2])
        assert iak != before[1]
        self.check_form(*reversed(helpers.certificates(after)[:2]))
        known = enroller.enroll(fresh(tpm, certify=False))
        assert (known.status, helpers.ders(known.body)) == (200, [ek, iak, idevid])
        with store.read() as tx:
            assert len(tx.certificates.latest(state=CertificateState.ISSUED)) == 4
            assert tx.alarms.latest() == []

    def test_and_back_again_the_first_form_is_still_there(
        self, world, store, enroller, tpm_of, helpers, fresh, webauthn
    ):
        tpm = tpm_of(("L-2",))
        before = helpers.ders(helpers.issue(world, enroller, tpm))
        for text in (webauthn, every_kind(world.policy())):
            world.apply(store, text)
            helpers.issue(world, enroller, tpm)
        known = enroller.enroll(fresh(tpm, certify=False))
        assert (known.status, helpers.ders(known.body)) == (200, before)

    def test_an_ephemeral_one(self, world, store, enroller, tpm_of, helpers):
        text = every_kind(amd_guest.policy(world), "iak-webauthn")
        assert load(text).iak_profile == "iak-webauthn"
        world.apply(store, text)
        reply = Guest(world, enroller, tpm_of(("L-2",))).issue(SERVICES_PROFILE)
        assert helpers.signers(world.authority, reply) == [("ephemeral", 1)] * 3
        ek, iak, _ = helpers.certificates(reply)
        self.check_form(iak, ek)
