"""The enrolment client against a scripted CA."""

from __future__ import annotations

import json

import pytest

from vtpm.client import EnrollmentRefused, enroll
from vtpm.errors import UnavailableError
from vtpm.wire.enrollment import (
    CertificateEntry,
    CertificatesReply,
    Certify,
    Challenge,
    ChallengeReply,
    Evidence,
    NonceReply,
    Problem,
)
from vtpm.wire.runtime_data import PROFILE

NONCE = (201, NonceReply("n" * 43, "ca", "2026-11-23T10:00:00Z").to_json())
ENTRY = CertificateEntry("L-1", b"leaf", (b"issuer", b"root"))
CERTIFICATES = (200, CertificatesReply("e" * 22, "d" * 22, (ENTRY,), ENTRY, ENTRY).to_json())
CHALLENGE = (
    201,
    ChallengeReply(
        "e" * 22, (Challenge(b"\x00\x0b" + bytes(32), b"blob", b"secret"),), "2026-11-23T10:10:00Z"
    ).to_json(),
)


def problem(status: int, code: str, rule: str = "") -> tuple[int, dict[str, object]]:
    return status, Problem("urn:vtpm-ca:error:" + code, "title", status, "detail", code, rule).to_json()


class ScriptedCa:
    def __init__(self, *answers):
        self.answers = list(answers)
        self.calls = []

    def call(self, method, path, body):
        self.calls.append((method, path, body))
        status, document = self.answers.pop(0)
        return status, b"" if document is None else json.dumps(document).encode()


class Device:
    def __init__(self):
        self.certified = 0

    def evidence(self, aud, nonce):
        return Evidence(PROFILE, b"{}", bytes(1184))

    def certify(self, evidence):
        self.certified += 1
        return Certify(b"attest", b"signature")

    def activate(self, index, challenge):
        return b"secret %d" % index


def test_new_tpm_certifies_and_activates():
    ca, device = ScriptedCa(NONCE, CHALLENGE, CERTIFICATES), Device()
    reply = enroll(ca, device, known=False)
    assert reply.iak == ENTRY
    assert device.certified == 1
    assert [path for _, path, _ in ca.calls] == [
        "/v1/nonces",
        "/v1/enrollments",
        f"/v1/enrollments/{'e' * 22}/activation",
    ]


def test_known_tpm_sends_no_certify():
    ca, device = ScriptedCa(NONCE, CERTIFICATES), Device()
    enroll(ca, device, known=True)
    assert device.certified == 0
    assert b"certify" not in ca.calls[1][2]


def test_known_tpm_certifies_when_the_ca_asks():
    refusal = problem(403, "certify-required", "certify.present")
    ca, device = ScriptedCa(NONCE, refusal, NONCE, CHALLENGE, CERTIFICATES), Device()
    enroll(ca, device, known=True)
    assert device.certified == 1
    assert b'"certify"' in ca.calls[3][2]


def test_refusal_carries_the_rule():
    ca = ScriptedCa(NONCE, problem(403, "refused", "kbs.listed"))
    with pytest.raises(EnrollmentRefused) as refused:
        enroll(ca, Device(), known=False)
    assert refused.value.rule == "kbs.listed"
    assert refused.value.exit_code == 1


def test_other_refusals_are_not_retried_with_certify():
    ca = ScriptedCa(NONCE, problem(403, "refused", "kbs.listed"))
    with pytest.raises(EnrollmentRefused):
        enroll(ca, Device(), known=True)
    assert len(ca.calls) == 2


def test_lost_answer_is_asked_for_again_with_the_same_bytes():
    pauses = []
    ca = ScriptedCa(NONCE, CHALLENGE, (0, None), problem(503, "unavailable"), CERTIFICATES)
    enroll(ca, Device(), known=False, pause=pauses.append)
    assert ca.calls[2] == ca.calls[3] == ca.calls[4]
    assert len(pauses) == 2


def test_ca_that_stays_away_is_unavailable():
    ca = ScriptedCa(*[(0, None)] * 4)
    with pytest.raises(UnavailableError) as error:
        enroll(ca, Device(), known=False, pause=lambda _: None)
    assert error.value.exit_code == 3


@pytest.mark.parametrize("answer", [(201, {"nonce": 1}), (201, None), (418, None)])
def test_unreadable_answer_is_unavailable(answer):
    with pytest.raises(UnavailableError):
        enroll(ScriptedCa(answer), Device(), known=False, pause=lambda _: None)
