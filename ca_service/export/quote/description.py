"""A verdict as plain values, for JSON and for people."""

import base64
import hashlib
from collections.abc import Iterator
from typing import Any

from ca_service.export.quote.judging import JudgedCertificate, QuoteVerdict
from ca_service.export.quote.pcrs import chosen
from ca_service.profiles.model import serial_hex
from ca_service.profiles.view import NameView, ProvenanceView
from ca_service.residency.quote import QuoteInfo

VALID, INVALID = "VALID", "INVALID"


def describe(verdict: QuoteVerdict) -> dict[str, Any]:
    """Everything that was found.

    Returns:
        ``verdict`` (VALID or INVALID), ``reason`` (id of the first check that says no, else ``ok``), ``detail``,
        ``provenance`` and ``pcrs`` (None unless VALID), ``certificates``, ``quote`` (what it states, whoever made it),
        and ``checks``: the findings, each with what it is ``about``, a kind of certificate or the quote.
    """
    refusal, provenance = verdict.refusal, verdict.provenance
    detail = "the quote is of a TPM that this CA has certified, and was made for this nonce"
    return {
        "verdict": VALID if verdict.admitted else INVALID,
        "reason": "ok" if refusal is None else refusal.rule,
        "detail": detail if refusal is None else refusal.reason,
        "provenance": None if provenance is None else describe_provenance(provenance),
        "pcrs": None if verdict.pcrs is None else verdict.pcrs.to_json(),
        "certificates": {one.kind: _certificate(one) for one in verdict.certificates},
        "quote": None if verdict.stated is None else _quote(verdict.stated),
        "checks": [
            *_of_certificates(verdict),
            *({"about": "quote", **one} for one in verdict.quote.to_json()),
        ],
    }


def _of_certificates(verdict: QuoteVerdict) -> Iterator[dict[str, str]]:
    for one in verdict.certificates:
        for finding in one.trace.to_json():
            yield {"about": one.kind, **finding}


def describe_provenance(found: ProvenanceView) -> dict[str, Any]:
    """What vouched for a TPM; None for what the certificate does not say."""
    thumbprint = found.kbs_thumbprint
    encoded = (
        None if thumbprint is None else base64.urlsafe_b64encode(thumbprint).rstrip(b"=").decode("ascii")
    )
    return {
        "kbs_key": encoded,
        "resource": found.resource,
        "measurement": found.measurement.hex(),
        "policy": found.policy_digest.hex(),
        "decision": found.decision_id,
        "profile": found.evidence_profile,
    }


def _certificate(one: JudgedCertificate) -> dict[str, Any]:
    view = one.view
    return {
        "counts": one.trace.admitted,
        "sha256": hashlib.sha256(one.der).hexdigest(),
        "serial": None if view is None else serial_hex(view.serial),
        "subject": None if view is None else _name(view.subject),
        "issuer": None if view is None else _name(view.issuer),
        "not_before": None if view is None else view.not_before.isoformat(),
        "not_after": None if view is None else view.not_after.isoformat(),
    }


def _name(name: NameView) -> str:
    return ", ".join(text for rdn in name.rdns for _, text in rdn)


def _quote(info: QuoteInfo) -> dict[str, Any]:
    banks: dict[str, list[int]] = {}
    for bank, number in chosen(info.selections):
        banks.setdefault(bank, []).append(number)
    return {
        "qualified_signer": info.qualified_signer.hex(),
        "nonce": info.extra_data.hex(),
        "firmware": f"{info.firmware:016x}",
        "clock_ms": info.clock,
        "clock_safe": info.safe,
        "reset_count": info.reset_count,
        "restart_count": info.restart_count,
        "pcr_selection": banks,
        "pcr_digest": info.pcr_digest.hex(),
    }
