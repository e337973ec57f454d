"""Reports, certificates and lists as plain values, for JSON and for people. Nothing here judges."""

import hashlib
from datetime import datetime

from ca_service.evidence.snp.authorities import Authority
from ca_service.evidence.snp.crl import Crl
from ca_service.evidence.snp.evidence import SIGNING_KEYS
from ca_service.evidence.snp.leaf import HWID_SIZE, Leaf
from vtpm.wire.certtable import CertKind
from vtpm.wire.report import CPUID_SINCE, MIT_VECTORS_SINCE, Product, Report, tcb_components
from vtpm.wire.report_bits import GUEST_POLICY_BITS, PLATFORM_INFO_BITS, bits, guest_policy_abi

_NO_KEY = 7


def stated_product(report: Report) -> Product | None:
    """The product that a report alone tells; None if it tells none.

    Before version 3 it states no CPUID. Its CHIP_ID then tells the TCB layout: only Turin's has zeros from byte 8 on.
    Milan and Genoa share a layout, so Milan stands for both of them.
    """
    if report.version >= CPUID_SINCE:
        family, model, _ = report.cpuid
        return Product.from_cpuid(family, model)
    if not any(report.chip_id):
        return None
    return Product.MILAN if any(report.chip_id[HWID_SIZE[Product.TURIN] :]) else Product.TURIN


def describe_tcbs(report: Report, product: Product | None) -> dict[str, dict[str, str | int]]:
    """The four TCBs of a report: raw in hex, and as numbers by component if the product is known."""
    raws = {
        "reported": report.reported_tcb,
        "current": report.current_tcb,
        "committed": report.committed_tcb,
        "launch": report.launch_tcb,
    }
    return {
        name: {"raw": raw.hex(), **({} if product is None else tcb_components(raw, product))}
        for name, raw in raws.items()
    }


def describe_report(report: Report) -> dict[str, object]:
    """All fields of a report but its TCBs: byte strings in hex, bits by name, versions as ``major.minor.build``.

    What this version of the report does not have is None.
    """
    kind = SIGNING_KEYS.get(report.signing_key)
    has_vectors = report.version >= MIT_VECTORS_SINCE
    return {
        "version": report.version,
        "guest_svn": report.guest_svn,
        "guest_policy": {
            "raw": f"0x{report.policy:016x}",
            "abi": ".".join(map(str, guest_policy_abi(report.policy))),
            **bits(report.policy, GUEST_POLICY_BITS),
        },
        "family_id": report.family_id.hex(),
        "image_id": report.image_id.hex(),
        "vmpl": report.vmpl,
        "signature_algorithm": report.signature_algo,
        "platform_info": {
            "raw": f"0x{report.platform_info:016x}",
            **bits(report.platform_info, PLATFORM_INFO_BITS),
        },
        "signing_key": kind
        or ("none" if report.signing_key == _NO_KEY else f"reserved ({report.signing_key})"),
        "mask_chip_key": report.mask_chip_key,
        "author_key_en": report.author_key_en,
        "report_data": report.report_data.hex(),
        "measurement": report.measurement.hex(),
        "host_data": report.host_data.hex(),
        "id_key_digest": report.id_key_digest.hex(),
        "author_key_digest": report.author_key_digest.hex(),
        "report_id": report.report_id.hex(),
        "report_id_ma": report.report_id_ma.hex(),
        "cpuid": dict(zip(("family", "model", "stepping"), report.cpuid, strict=True))
        if report.version >= CPUID_SINCE
        else None,
        "chip_id": report.chip_id.hex(),
        "current_firmware": ".".join(map(str, report.current_firmware)),
        "committed_firmware": ".".join(map(str, report.committed_firmware)),
        "launch_mitigations": f"0x{report.launch_mit_vector:x}" if has_vectors else None,
        "current_mitigations": f"0x{report.current_mit_vector:x}" if has_vectors else None,
    }


def _period(start: datetime, end: datetime) -> dict[str, str]:
    return {"not_before": start.isoformat(), "not_after": end.isoformat()}


def describe_leaf(leaf: Leaf, product: Product | None) -> dict[str, object]:
    """A leaf certificate; its TCB as numbers if the product is known and it certifies all of it."""
    tcb = None if product is None else leaf.tcb(product)
    return {
        "kind": leaf.kind,
        "subject": leaf.common_name,
        "issuer": leaf.issuer.rfc4514_string(),
        **_period(leaf.not_before, leaf.not_after),
        "product_name": leaf.product_name,
        "hwid": None if leaf.hwid is None else leaf.hwid.hex(),
        "csp_id": leaf.csp_id,
        "tcb": None if tcb is None or product is None else {"raw": tcb.hex(), **tcb_components(tcb, product)},
        "sha256": hashlib.sha256(leaf.der).hexdigest(),
    }


def describe_authority(authority: Authority) -> dict[str, object]:
    """A certificate of an ASK, ASVK or ARK."""
    kinds = {CertKind.VCEK: "ASK", CertKind.VLEK: "ASVK"}
    return {
        "kind": "ARK" if authority.issues is None else kinds[authority.issues],
        "subject": authority.common_name,
        "serial": f"{authority.serial:x}",
        **_period(authority.not_before, authority.not_after),
        "sha256": hashlib.sha256(authority.der).hexdigest(),
    }


def describe_crl(crl: Crl) -> dict[str, object]:
    """A revocation list, with the serial numbers that it lists in hex."""
    return {
        "kind": "CRL",
        "issuer": crl.issuer_name,
        "number": crl.number,
        "this_update": crl.this_update.isoformat(),
        "next_update": None if crl.next_update is None else crl.next_update.isoformat(),
        "revoked": [f"{serial:x}" for serial in sorted(crl.revoked)],
        "sha256": hashlib.sha256(crl.der).hexdigest(),
    }
