"""Genuine evidence from the vectors, and simulated evidence of which every part can be changed and signed again."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.evidence.snp import Collateral, Root, SnpEvidence, read_authority, read_leaf
from vtpm.snp import KeySelect, Platform, new_simulated_chain, sign_body
from vtpm.snp.names import HWID_SIZE
from vtpm.wire.certtable import CertKind
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


def authority(certificate):
    return read_authority(certificate.public_bytes(Encoding.DER))


def root(chain):
    """What an operator who trusts this signing service would pin."""
    intermediates = tuple(map(authority, (chain.ask, chain.asvk)))
    return Root(chain.product, authority(chain.ark), intermediates, simulated=True)


@pytest.fixture(scope="session")
def look_alike():
    """A signing service with the names of the Milan one, but keys of its own."""
    return new_simulated_chain(Product.MILAN, label="Test", bits=2048)


@pytest.fixture(scope="session")
def root_of():
    return root


@pytest.fixture(scope="session")
def authority_of():
    return authority


@pytest.fixture(scope="session")
def platforms(chains):
    """Function: the one platform of a product and report version, with a VCEK and a VLEK."""

    @cache
    def make(product, version):
        return Platform.made(
            b"\x07" * 32,
            product=product,
            chain=chains[product],
            report_version=version,
            csp_id="CN=cc-test-1.example",
            clock=lambda: NOW,
        )

    return make


@pytest.fixture(scope="session")
def simulated(chains, platforms):
    """Function: evidence that is right in everything but what is asked to be changed.

    Args:
        product: of the platform.
        kind: of the key that signs, VCEK or VLEK.
        version: of the report.
        report: fields to change before signing, by name.
        leaf: arguments of `SimulatedChain.issue_vcek` or `issue_vlek` to change.
        chain: who issues the leaf, if not the product's.
        body_patch: bytes to put over the report before it is signed, {offset: bytes}.
        patch: likewise, after it was signed.
        evidence: members of `SnpEvidence` to change.
    """

    def make(
        product=Product.MILAN,
        kind=CertKind.VCEK,
        *,
        version=3,
        report=None,
        leaf=None,
        chain=None,
        body_patch=None,
        patch=None,
        evidence=None,
    ):
        platform, select = platforms(product, version), KeySelect[kind.value]
        vm = platform.launch_measured(b"\x01" * 48, entropy=lambda size: b"\x03" * size)
        parsed = Report.parse(vm.report_body(b"\x02" * 64, key=select) + bytes(512))
        fields = {name: getattr(parsed, name) for name in _PACKED} | (report or {})
        body = _patched(pack_report(**fields), body_patch)
        raw = _patched(body + sign_body(body, vm.signing_key(select)), patch)
        arguments = {
            "public_key": vm.signing_key(select).public_key(),
            "tcb": platform.tcb,
            "not_before": NOW - timedelta(days=1),
        }
        if kind is CertKind.VCEK:
            arguments["hwid"] = platform.chip_id[: HWID_SIZE[product]]
        chain = chain or chains[product]
        issue = chain.issue_vcek if kind is CertKind.VCEK else chain.issue_vlek
        members = {
            "report": Report.parse(raw),
            "roots": (root(chains[product]),),
            "at": NOW,
            "offered": Collateral(leaves=(read_leaf(issue(**arguments | (leaf or {}))),)),
        } | (evidence or {})
        return SnpEvidence(**members)

    return make
