"""The request-challenge-attestation-response protocol of Trustee's key broker, version 0.4.0, for SEV-SNP.

Sources: confidential-containers/trustee (kbs, attestation-service) and virtee/kbs-types for the messages.
The report within the evidence has the form of `vtpm.wire.report_json`.
"""

import hashlib
from dataclasses import dataclass
from typing import Final, Self

from vtpm.wire.certtable import MAX_TABLE, CertKind
from vtpm.wire.encoding import Members, canonical, parse_json, unb64std
from vtpm.wire.errors import WireError
from vtpm.wire.jwk import EcJwk
from vtpm.wire.report import Report
from vtpm.wire.report_json import octets, report_from_json, report_to_json

PROTOCOL_VERSION: Final = "0.4.0"
TEE: Final = "snp"
TEE_KEY_ALG: Final = "ECDH-ES+A256KW"

MAX_BODY: Final = 256 * 1024
"""Largest message in bytes: a report and a full certificate table as lists of numbers stay below."""

_ERRORS: Final = "https://github.com/confidential-containers/kbs/errors/"
_CURVES: Final = ("P-521", "P-256")
_NONCE: Final = 64
_MAX_TOKEN: Final = 64 * 1024
_MAX_CHAIN: Final = 8


def auth_request() -> dict[str, object]:
    """The message that opens a session."""
    return {"version": PROTOCOL_VERSION, "tee": TEE, "extra-params": ""}


def parse_auth_request(data: bytes) -> str:
    """Read an `auth_request`; returns the kind of processor, always "snp".

    Raises:
        WireError: another form, version or kind of processor. The extra parameters may be any JSON.
    """
    members = Members(parse_json(data, "auth", most=MAX_BODY), "auth")
    members.one_of("version", (PROTOCOL_VERSION,))
    tee = members.one_of("tee", (TEE,))
    members.value("extra-params")
    members.end()
    return tee


def challenge_message(nonce: str) -> dict[str, object]:
    """The answer to an `auth_request`; `nonce` is standard base64 with padding."""
    return {"nonce": nonce, "extra-params": ""}


def _nonce(members: Members) -> str:
    nonce = members.text("nonce")
    # The SVSM gets the decoded bytes and writes them anew, so only the canonical form survives the way.
    unb64std(nonce, members.at("nonce"), most=_NONCE)
    return nonce


def parse_challenge(data: bytes) -> str:
    """Read a `challenge_message`; returns the nonce, standard base64 of at most 64 bytes.

    Raises:
        WireError: another form.
    """
    members = Members(parse_json(data, "challenge", most=MAX_BODY), "challenge")
    nonce = _nonce(members)
    members.value("extra-params")
    members.end()
    return nonce


def tee_pubkey(key: EcJwk) -> dict[str, str]:
    """The SVSM's key as the broker takes it: a JWK with the key agreement's algorithm."""
    return {"alg": TEE_KEY_ALG, **key.members()}


def kbs_report_data(nonce: str, tee: EcJwk) -> bytes:
    """REPORT_DATA for the broker, 64 bytes: SHA-384 of the canonical runtime data, then 16 zero bytes.

    Args:
        nonce: the challenge exactly as the broker sent it.
        tee: the SVSM's key.
    """
    runtime_data = {"additional-evidence": "", "nonce": nonce, "tee-pubkey": tee_pubkey(tee)}
    return hashlib.sha384(canonical(runtime_data)).digest() + bytes(16)


@dataclass(frozen=True)
class Attestation:
    """The body of POST /attest.

    Attributes:
        nonce: the challenge exactly as the broker sent it.
        tee: the key that the secret is to be encrypted to.
        report: 1184 bytes; REPORT_DATA should be `kbs_report_data(nonce, tee)`, which is the verifier's to
            check.
        chain: kind and DER of each certificate sent along; may be empty.
    """

    nonce: str
    tee: EcJwk
    report: bytes
    chain: tuple[tuple[str, bytes], ...] = ()

    def to_json(self) -> dict[str, object]:
        """The JSON members.

        Raises:
            WireError: the report is not 1184 bytes, or has no JSON form (see `report_to_json`).
        """
        chain = [{"cert_type": kind, "data": list(der)} for kind, der in self.chain]
        evidence = {
            "attestation_report": report_to_json(Report.parse(self.report)),
            "cert_chain": chain or None,
        }
        return {
            "init-data": None,
            "runtime-data": {"nonce": self.nonce, "tee-pubkey": tee_pubkey(self.tee)},
            "tee-evidence": {"primary_evidence": evidence, "additional_evidence": ""},
        }

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the JSON bytes. Init data and additional evidence are refused: no SVSM sends them.

        Raises:
            WireError: another form.
        """
        members = Members(parse_json(data, "attestation", most=MAX_BODY), "attestation")
        if members.has("init-data") and members.value("init-data") is not None:
            raise WireError(members.at("init-data"), "must be null")
        runtime = members.members("runtime-data")
        nonce = _nonce(runtime)
        tee = EcJwk.parse(
            runtime.value("tee-pubkey"), runtime.at("tee-pubkey"), curves=_CURVES, alg=TEE_KEY_ALG
        )
        runtime.end()
        evidence = members.members("tee-evidence")
        primary = evidence.members("primary_evidence")
        path = primary.at("attestation_report")
        report = report_from_json(primary.value("attestation_report"), path)
        chain = _chain(primary)
        primary.end()
        if evidence.value("additional_evidence") != "":
            raise WireError(evidence.at("additional_evidence"), "must be empty")
        evidence.end()
        members.end()
        return cls(nonce, tee, report, chain)


def _chain(primary: Members) -> tuple[tuple[str, bytes], ...]:
    if not primary.has("cert_chain") or primary.value("cert_chain") is None:
        return ()
    chain: list[tuple[str, bytes]] = []
    for value, path in primary.array("cert_chain", 0, _MAX_CHAIN):
        entry = Members(value, path)
        kind = entry.one_of("cert_type", tuple(CertKind))
        if kind in (seen for seen, _ in chain):
            raise WireError(entry.at("cert_type"), "stands twice")
        chain.append((kind, octets(entry.array("data", 1, MAX_TABLE))))
        entry.end()
    return tuple(chain)


def token_message(token: str) -> dict[str, object]:
    """The answer to an accepted attestation: the attestation token, a JWT."""
    return {"token": token}


def parse_token(data: bytes) -> str:
    """Read a `token_message`; the token is not looked into.

    Raises:
        WireError: another form.
    """
    members = Members(parse_json(data, "token", most=MAX_BODY), "token")
    token = members.text("token", most=_MAX_TOKEN)
    members.end()
    return token


def problem(variant: str, detail: str) -> dict[str, object]:
    """The broker's error body; `variant` is the name of a Trustee error, such as `PolicyDeny`."""
    return {"type": _ERRORS + variant, "detail": detail}
