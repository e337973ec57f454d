"""Genuine evidence from the vectors, and simulated evidence of which every part can be changed and signed again."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.evidence.snp import Collateral, Root, SnpEvidence, read_authority, read_leaf
from vtpm.snp import Platform, new_simulated_chain, sign_body
from vtpm.snp.names import HWID_SIZE
from vtpm.wire.report import Product, Report, pack_report

VECTORS = Path(__file__).parents[2] / "vectors" / "snp-evidence"
NOW = datetime(2026, 6, 1, tzinfo=UTC)
_PACKED = [
    field.name
    for field in dataclasses.fields(Report)
    if field.name not in {"raw", "signature_r", "signature_s"}
]


def pytest_generate_tests(metafunc):
    if "vector" in metafunc.fixturenames:
        vectors = json.loads((VECTORS / "manifest.json").read_text())["vectors"]
        metafunc.parametrize("vector", vectors, ids=[v["id"] for v in vectors])


@pytest.fixture(scope="session")
def vectors():
    return VECTORS


@pytest.fixture(scope="session")
def manifest():
    return json.loads((VECTORS / "manifest.json").read_text())


@pytest.fixture(scope="session")
def genuine(manifest):
    """Function: the evidence of a vector by id, under some roots."""

    def make(name, roots):
        vector = next(v for v in manifest["vectors"] if v["id"] == name)
        files = vector["files"]
        leaf = (VECTORS / files["vek"]).read_bytes() if "vek" in files else None
        return SnpEvidence(
            report=Report.parse((VECTORS / files["report"]).read_bytes()),
            roots=roots,
            at=datetime.fromisoformat(vector["verify_at"]),
            offered=Collateral(leaves=(read_leaf(leaf),)) if leaf else Collateral(),
        )

    return make


@pytest.fixture(scope="session")
def chains():
    """A test signing service for each product; smaller keys than AMD's, for speed."""
    return {product: new_simulated_chain(product, label="Test", bits=2048) for product in Product}


def _patched(data, patches):
    changed = bytearray(data)
    for offset, content in (patches or {}).items():
        changed[offset : offset + len(content)] = content
    return bytes(changed)


def _root(chain):
    ark, ask = (read_authority(c.public_bytes(Encoding.DER)) for c in (chain.ark, chain.ask))
    return Root(chain.product, ark, (ask,), simulated=True)


@pytest.fixture(scope="session")
def root_of():
    return _root


@pytest.fixture(scope="session")
def simulated(chains):
    """Function: evidence that is right in everything but what is asked to be changed.

    Args:
        product: of the platform.
        version: of the report.
        report: fields to change before signing, by name.
        leaf: arguments of `SimulatedChain.issue_vcek` to change.
        body_patch: bytes to put over the report before it is signed, {offset: bytes}.
        patch: likewise, after it was signed.
        evidence: members of `SnpEvidence` to change.
    """

    def make(
        product=Product.MILAN,
        *,
        version=3,
        report=None,
        leaf=None,
        body_patch=None,
        patch=None,
        evidence=None,
    ):
        chain = chains[product]
        platform = Platform.made(
            b"\x07" * 32, product=product, chain=chain, report_version=version, clock=lambda: NOW
        )
        parsed = Report.parse(platform.launch_measured(b"\x01" * 48).report(b"\x02" * 64))
        fields = {name: getattr(parsed, name) for name in _PACKED} | (report or {})
        body = _patched(pack_report(**fields), body_patch)
        raw = _patched(body + sign_body(body, platform.vcek_key()), patch)
        arguments = {
            "public_key": platform.vcek_key().public_key(),
            "hwid": platform.chip_id[: HWID_SIZE[product]],
            "tcb": platform.tcb,
            "not_before": NOW - timedelta(days=1),
        } | (leaf or {})
        members = {
            "report": Report.parse(raw),
            "roots": (_root(chain),),
            "at": NOW,
            "offered": Collateral(leaves=(read_leaf(chain.issue_vcek(**arguments)),)),
        } | (evidence or {})
        return SnpEvidence(**members)

    return make
