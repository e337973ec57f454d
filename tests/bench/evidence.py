"""What the judgement of a report costs, as a ratio to the one verification that it cannot do without."""

import json
import statistics
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from ca_service.evidence.snp import (
    AUTHENTICITY,
    Collateral,
    SnpEvidence,
    amd_roots,
    authorities,
    certificates,
    leaf,
    read_leaf,
)
from ca_service.evidence.snp.evidence import signature_holds
from ca_service.judgment import judge_until_failure
from vtpm.wire.report import Report

VECTORS = Path(__file__).parents[1] / "vectors" / "snp-evidence"
NAMES = ("milan-v3-vcek-aci", "genoa-v5-vcek-routex", "turin-v5-vcek-aci", "milan-v5-vlek-aws")
ROUNDS, COLD_ROUNDS = 300, 40
CACHES = (
    certificates.load,
    certificates.issued,
    leaf.read_leaf,
    authorities.read_authority,
    signature_holds,
)


def judge(raw_report: bytes, raw_leaf: bytes, at: datetime) -> None:
    """From bytes to a verdict: all that a verifier does for a report whose chain it has seen before."""
    subject = SnpEvidence(
        report=Report.parse(raw_report),
        roots=amd_roots(),
        at=at,
        offered=Collateral(leaves=tuple(filter(None, [read_leaf(raw_leaf)]))),
    )
    if not judge_until_failure(AUTHENTICITY, subject).admitted:
        raise SystemExit("a vector that is valid was refused: there is nothing to measure")


def forget() -> None:
    """Make the next judgement the first one of its chain; the pinned roots stay read, as in any process."""
    for cache in CACHES:
        cache.cache_clear()


def _ms(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return (time.process_time() - start) * 1000


def measure() -> dict[str, float]:
    """Medians in milliseconds over all vectors: bare verification, judgement with a warm chain and with a cold one.

    Rounds are interleaved, so that a noisy neighbour disturbs both sides of the ratio.
    """
    vectors = {v["id"]: v for v in json.loads((VECTORS / "manifest.json").read_text())["vectors"]}
    bare: list[float] = []
    warm: list[float] = []
    cold: list[float] = []
    for name in NAMES:
        files, at = vectors[name]["files"], datetime.fromisoformat(vectors[name]["verify_at"])
        raw_report, raw_leaf = ((VECTORS / files[kind]).read_bytes() for kind in ("report", "vek"))
        report, algorithm = Report.parse(raw_report), ec.ECDSA(hashes.SHA384())
        key = certificates.load(raw_leaf).public_key()
        signature = encode_dss_signature(report.signature_r, report.signature_s)
        judge(raw_report, raw_leaf, at)
        for _ in range(ROUNDS):
            bare.append(_ms(lambda: key.verify(signature, report.signed_bytes, algorithm)))  # noqa: B023
            # Copies: bytes that arrive anew have no hash yet by which a cache could find them.
            copies = bytes(bytearray(raw_report)), bytes(bytearray(raw_leaf))
            # A report comes once: that its signature was verified before must not help.
            signature_holds.cache_clear()
            warm.append(_ms(lambda: judge(*copies, at)))  # noqa: B023
        for _ in range(COLD_ROUNDS):
            forget()
            cold.append(_ms(lambda: judge(raw_report, raw_leaf, at)))  # noqa: B023
    return {"bare": statistics.median(bare), "warm": statistics.median(warm), "cold": statistics.median(cold)}
