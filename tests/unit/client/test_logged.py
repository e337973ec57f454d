"""A client that has the log's key takes only what stands in the log."""

from dataclasses import replace

import audit_stage as a
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ca_service.audit import decision_leaf, verifier_key
from ca_service.audit.merkle import Frontier, inclusion, leaf_hash
from ca_service.audit.note import sign_note
from vtpm.client import check_logged, enroll
from vtpm.errors import VtpmError
from vtpm.wire.encoding import canonical
from vtpm.wire.enrollment import CertificateEntry, CertificatesReply, Evidence, NonceReply
from vtpm.wire.log import Checkpoint, Proof
from vtpm.wire.runtime_data import PROFILE

KEY = verifier_key(a.ORIGIN, a.KEY)
DERS = (b"ek", b"iak", b"idevid")


def leaf(der: bytes):
    return a.leaf_of(replace(CERTIFICATE, serial=der.hex(), der=der), "0" * 32)


CERTIFICATE = a.Stage._certificate(1, 0, type("Intent", (), {"id": "i", "tpm_id": 1}), a.AT)


def reply(leaves=None, *, key=a.KEY, origin=a.ORIGIN) -> CertificatesReply:
    """The answer of a CA whose log holds a decision and these leaves."""
    leaves = [decision_leaf(a.decision(1)), *(leaves or map(leaf, DERS))]
    frontier, nodes = Frontier(), {}
    for entry in leaves:
        frontier, made = frontier.append(leaf_hash(entry.data))
        nodes |= {(level, position): hash_ for level, position, hash_ in made}
    note = sign_note(
        Checkpoint(origin, frontier.size, frontier.root()).to_text(), verifier_key(origin, key), key
    )
    entries = [
        CertificateEntry(
            "H-3", der, (b"ca",), Proof(leaves[i].data, i, inclusion(i, frontier.size).path(nodes))
        )
        for i, der in enumerate(DERS, 1)
    ]
    return CertificatesReply("e", "d", (entries[0],), entries[1], entries[2], note)


def rule_of(answer: CertificatesReply) -> str:
    assert CertificatesReply.parse(canonical(answer.to_json())) == answer
    with pytest.raises(VtpmError) as error:
        check_logged(answer, KEY)
    return error.value.rule


def test_what_is_logged_is_taken():
    answer = reply()
    assert CertificatesReply.parse(canonical(answer.to_json())) == answer
    assert check_logged(answer, KEY).size == 4


class Ca:
    """Knows the TPM, and answers with certificates at once."""

    def __init__(self, answer: CertificatesReply) -> None:
        self.answers = [(201, NonceReply("n" * 43, "ca", "2026-11-23T10:00:00Z")), (200, answer)]

    def call(self, method, path, body):
        status, message = self.answers.pop(0)
        return status, canonical(message.to_json())


class Device:
    def evidence(self, aud, nonce):
        return Evidence(PROFILE, b"{}", bytes(1184))


def test_who_has_the_logs_key_demands_the_proofs():
    logged, hidden = reply(), reply()
    hidden = replace(hidden, iak=replace(hidden.iak, certificate=b"hidden"))
    assert enroll(Ca(logged), Device(), known=True, log=KEY) == logged
    with pytest.raises(VtpmError) as error:
        enroll(Ca(hidden), Device(), known=True, log=KEY)
    assert error.value.rule == "log.inclusion"
    assert enroll(Ca(hidden), Device(), known=True) == hidden


def test_a_ca_without_a_log():
    entries = [replace(entry, log=None) for entry in reply().entries]
    answer = CertificatesReply("e", "d", (entries[0],), entries[1], entries[2])
    assert rule_of(answer) == "log.proof-present"


def test_a_checkpoint_of_somebody_else():
    assert rule_of(reply(key=Ed25519PrivateKey.generate())) == "log.checkpoint"
    assert rule_of(reply(origin="other/log")) == "log.checkpoint"
    assert rule_of(replace(reply(), checkpoint=b"nothing")) == "log.checkpoint"


def test_a_certificate_that_is_not_the_leafs():
    answer = reply()
    assert rule_of(replace(answer, iak=replace(answer.iak, certificate=b"another"))) == "log.inclusion"


def test_a_leaf_that_is_no_certificates():
    other = decision_leaf(a.decision(2))
    assert rule_of(reply([leaf(DERS[0]), other, leaf(DERS[2])])) == "log.inclusion"
    nonsense = replace(other, data=b"{}")
    assert rule_of(reply([leaf(DERS[0]), nonsense, leaf(DERS[2])])) == "log.inclusion"


def test_a_leaf_that_does_not_stand_in_the_tree():
    answer = reply()
    proof = answer.idevid.log
    for changed in (
        replace(proof, position=0),
        replace(proof, path=proof.path[:-1]),
        replace(proof, leaf=proof.leaf.replace(b"ek", b"ak").replace(b"idevid", b"idevie")),
    ):
        if changed != proof:
            entry = replace(answer.idevid, log=changed)
            assert rule_of(replace(answer, idevid=entry)) == "log.inclusion"
