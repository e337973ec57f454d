"""The same enrolment with real TPMs behind it, for the template sets that differ in kind."""

import hashlib
from dataclasses import replace

import pytest
from cryptography import x509

from ca_service.policy import load
from vtpm.tpm import Swtpm, activate, certify_idevid, manufacture, properties
from vtpm.wire.enrollment import ActivationRequest, CertificatesReply, Certify, ChallengeReply
from vtpm.wire.runtime_data import TpmStatement, certify_qualifier
from vtpm.wire.templates import Role, parse_public, template, templates

SETS = [
    (("L-1",), "H-3", "H-3"),
    (("L-2", "H-3"), "H-2", "H-4"),
    (("H-2", "H-1"), "H-1", "R-3072"),
    (("H-4", "H-6", "L-2", "H-3"), "H-4", "H-1"),
    (("H-6",), "R-3072", "H-2"),
]


def test_every_template_is_in_a_set():
    for role, used in (
        (Role.EK, {ek for eks, _, _ in SETS for ek in eks}),
        (Role.IAK, {iak for _, iak, _ in SETS}),
        (Role.IDEVID, {idevid for _, _, idevid in SETS}),
    ):
        assert used == {known.id for known in templates(role)}


@pytest.mark.parametrize(("eks", "iak", "idevid"), SETS)
def test_three_certificates_for_a_real_tpm(world, store, enroller, tpms, helpers, eks, iak, idevid):
    templates = {"ek": list(eks), "iak": [iak], "idevid": [idevid]}
    text = world.policy()
    for role, ids in templates.items():
        old = "L-1" if role == "ek" else "H-3"
        text = text.replace(f'{role} = ["{old}"]', f"{role} = {ids}".replace("'", '"'))
    assert {r.value: sorted(ids) for r, ids in load(text).templates.items()} == {
        r: sorted(ids) for r, ids in templates.items()
    }
    world.apply(store, text)
    with Swtpm() as tpm:
        tpm.power_on(None)
        chosen = [template(Role.EK, i) for i in eks], template(Role.IAK, iak), template(Role.IDEVID, idevid)
        keys, facts = manufacture(tpm, *chosen), properties(tpm)
        statement = TpmStatement(
            keys.eks, keys.iak, keys.idevid, facts.manufacturer, facts.vendor, facts.firmware, facts.spec,
            "manufactured",
        )  # fmt: skip
        boot = helpers.Boot(certify=False, change=lambda data: replace(data, tpm=statement))
        request = world.request(enroller.new_nonce().nonce, tpms(0), boot)
        proof = certify_idevid(tpm, keys, certify_qualifier(request.evidence.runtime_data))
        reply = enroller.enroll(helpers.encode(replace(request, certify=Certify(*proof))))
        challenges = ChallengeReply.parse(reply.body)
        secrets = tuple(
            activate(tpm, keys, i, c.credential_blob, c.secret) for i, c in enumerate(challenges.challenges)
        )
        issued = enroller.activate(challenges.id, helpers.encode(ActivationRequest(secrets)))
    certificates = CertificatesReply.parse(issued)
    entries = zip(
        (*keys.eks, keys.iak, keys.idevid),
        (*certificates.ek, certificates.iak, certificates.idevid),
        strict=True,
    )
    naming = hashlib.sha256(certificates.ek[0].certificate).hexdigest().encode()
    for entry in (certificates.iak, certificates.idevid):
        assert naming in entry.certificate
    for key, entry in entries:
        found = x509.load_der_x509_certificate(entry.certificate).public_key()
        assert found == parse_public(key.public, "key").public_key()
        assert entry.template == key.template
