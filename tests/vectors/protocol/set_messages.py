"""The messages of /v1."""

import json
from dataclasses import replace

import set_log
from fixed import AUD, IAK_KEY, NONCE, RUNTIME_DATA, TPM, Attest, changed, stream, tpm_signature

from vtpm.wire.enrollment import (
    ActivationRequest,
    CertificateEntry,
    CertificatesReply,
    Certify,
    Challenge,
    ChallengeReply,
    Directory,
    DirectoryIssuer,
    EnrollmentRequest,
    EnrollmentState,
    Evidence,
    NonceReply,
    Problem,
)
from vtpm.wire.runtime_data import PROFILE
from vtpm.wire.templates import name

EXPIRES = "2026-01-31T12:05:00Z"
ATTEST = Attest().pack()
CERTIFY = Certify(ATTEST, tpm_signature(ATTEST, IAK_KEY))
EVIDENCE = Evidence(
    PROFILE, RUNTIME_DATA.canonical(), stream("report", 1184), stream("table", 100), "e30.e30.c2ln"
)
ENTRY = CertificateEntry("H-3", stream("leaf", 80), (stream("issuing", 80), stream("root", 80)))
LOGGED = tuple(replace(ENTRY, log=set_log.proof(position)) for position in (1, 2, 3))
MESSAGES = {
    "nonce": NonceReply(NONCE, AUD, EXPIRES),
    "enrolment": EnrollmentRequest(EVIDENCE, CERTIFY),
    "enrolment-of-a-known-tpm": EnrollmentRequest(
        Evidence(PROFILE, RUNTIME_DATA.canonical(), stream("report", 1184))
    ),
    "challenges": ChallengeReply(
        "Q2hhbGxlbmdl",
        tuple(
            Challenge(name(ek.public), stream("blob", 68), stream("secret", size))
            for ek, size in zip(TPM.eks, (258, 102), strict=True)
        ),
        EXPIRES,
    ),
    "activation": ActivationRequest((stream("one", 32), stream("two", 32))),
    "certificates": CertificatesReply("Q2hhbGxlbmdl", "ZGVjaXNpb24", (ENTRY,), ENTRY, ENTRY),
    "certificates-logged": CertificatesReply(
        "Q2hhbGxlbmdl", "ZGVjaXNpb24", LOGGED[:1], LOGGED[1], LOGGED[2], set_log.note(len(set_log.LEAVES))
    ),
    "state": EnrollmentState("Q2hhbGxlbmdl", "challenged", "ZGVjaXNpb24", EXPIRES),
    "problem": Problem(
        type="urn:vtpm-ca:error:refused",
        title="Refused",
        status=403,
        detail="the report was not made at VMPL 0",
        code="refused",
        rule="snp.vmpl",
        decision_id="ZGVjaXNpb24",
        retryable=False,
    ),
    "directory": Directory(
        ca_id=AUD,
        mode="simulation",
        profiles=(PROFILE,),
        issuers=(DirectoryIssuer("root", "", "00" * 32, "http://ca.vectors.example/ca/00.cer"),),
        urls={"nonces": "/v1/nonces"},
        limits={"body_bytes": 65536},
    ),
    "directory-with-a-log": Directory(
        ca_id=AUD, mode="simulation", profiles=(PROFILE,), issuers=(), log=set_log.VKEY
    ),
}

# message, case: (member, value, path of the error); `...` removes the member
CHANGES: dict[tuple[str, str], tuple[str, object, str]] = {
    ("nonce", "expires-with-offset"): ("expires", "2026-01-31T12:05:00+00:00", "expires"),
    ("nonce", "expires-no-such-day"): ("expires", "2026-02-30T12:05:00Z", "expires"),
    ("nonce", "unknown-member"): ("ttl", 300, "ttl"),
    ("enrolment", "profile-of-sessions"): ("evidence.profile", "svsm-vtpm-session:1", "evidence.profile"),
    ("enrolment", "runtime-data-empty"): ("evidence.runtime_data", "", "evidence.runtime_data"),
    ("enrolment", "report-1183-bytes"): ("evidence.report", "A" * 1577 + "A", "evidence.report"),
    ("enrolment", "certificates-null"): ("evidence.certificates", None, "evidence.certificates"),
    ("enrolment", "ear-no-jws"): ("evidence.ear", "token", "evidence.ear"),
    ("enrolment", "certify-null"): ("certify", None, "certify"),
    ("enrolment", "certify-without-signature"): ("certify.signature", ..., "certify.signature"),
    ("enrolment", "attest-1025-bytes"): ("certify.attest", "A" * 1367, "certify.attest"),
    ("enrolment", "subject-from-the-requester"): ("subject", "CN=mine", "subject"),
    ("challenges", "none"): ("challenges", [], "challenges"),
    ("challenges", "id-with-slash"): ("id", "a/b", "id"),
    ("challenges", "ek-name-33-bytes"): ("challenges.0.ek", "00" * 33, "challenges[0].ek"),
    ("activation", "no-secret"): ("secrets", [], "secrets"),
    ("activation", "secret-empty"): ("secrets.1", "", "secrets[1]"),
    ("activation", "secret-65-bytes"): ("secrets.0", "A" * 87, "secrets[0]"),
    ("certificates", "no-chain"): ("ek.0.chain", [], "ek[0].chain"),
    ("certificates", "certificate-4097-bytes"): ("iak.certificate", "A" * 5463, "iak.certificate"),
    ("certificates-logged", "no-checkpoint"): ("checkpoint", ..., "checkpoint"),
    ("certificates-logged", "checkpoint-empty"): ("checkpoint", "", "checkpoint"),
    ("certificates-logged", "one-entry-without-a-proof"): ("iak.log", ..., "checkpoint"),
    ("certificates-logged", "position-as-a-number"): ("iak.log.position", 2, "iak.log.position"),
    ("certificates-logged", "position-with-a-zero"): ("ek.0.log.position", "01", "ek[0].log.position"),
    ("certificates-logged", "leaf-empty"): ("idevid.log.leaf", "", "idevid.log.leaf"),
    ("certificates-logged", "hash-31-bytes"): ("iak.log.path.1", "A" * 42, "iak.log.path[1]"),
    ("certificates-logged", "size-in-the-proof"): ("iak.log.size", "7", "iak.log.size"),
    ("state", "state-unknown"): ("state", "done", "state"),
    ("problem", "status-200"): ("status", 200, "status"),
    ("directory", "mode-unknown"): ("mode", "test", "mode"),
    ("directory-with-a-log", "key-of-another-name"): ("log.origin", "other", "log.origin"),
    ("directory-with-a-log", "no-key"): ("log.key", "ca.vectors.example", "log.key"),
}


def make() -> dict[str, object]:
    """The file messages.json."""
    return {
        "about": "Forms only: report and certificates are made-up bytes. `attest` verifies under the IAK.",
        "valid": [
            {"name": case, "message": type(message).__name__, "document": message.to_json()}
            for case, message in MESSAGES.items()
        ],
        "invalid": [
            {
                "name": f"{case}: {what}",
                "message": type(MESSAGES[case]).__name__,
                "document": changed(MESSAGES[case].to_json(), {member: value}),
                "path": path,
            }
            for (case, what), (member, value, path) in CHANGES.items()
        ],
        "attest": {
            "attest": ATTEST.hex(),
            "signature": CERTIFY.signature.hex(),
            "extra_data": Attest().extra_data.hex(),
            "runtime_data": json.loads(RUNTIME_DATA.canonical()),
        },
    }
