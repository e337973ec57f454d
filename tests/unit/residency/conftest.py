"""Recorded proofs of a real TPM, proofs by software keys with any flaw that is asked for, and a real TPM."""

import importlib.util
import json
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from ca_service.judgment import Verdict, judge_all
from ca_service.residency import CERTIFY_CHECKS, KEY_CHECKS, TpmEvidence
from vtpm.wire.encoding import Members
from vtpm.wire.public_area import CURVES, pack_public, parse_public
from vtpm.wire.runtime_data import KeyStatement, TpmSpec, TpmStatement
from vtpm.wire.templates import Role, name, qualified_name, template

_VECTORS = Path(__file__).parents[2] / "vectors" / "residency"
_HASHES = {0x000B: hashes.SHA256(), 0x000C: hashes.SHA384(), 0x000D: hashes.SHA512()}


def _evidence_of(case):
    return TpmEvidence(
        TpmStatement.parse(Members(case["statement"])),
        bytes.fromhex(case["qualifier"]),
        bytes.fromhex(case["attest"]),
        bytes.fromhex(case["signature"]),
    )


@pytest.fixture(scope="session")
def vectors():
    """Case name to evidence and the rules that refuse it."""
    cases = json.loads((_VECTORS / "vectors.json").read_text())
    return {name: (_evidence_of(case), case["refused_by"]) for name, case in cases.items()}


@pytest.fixture(scope="session")
def real_tpm():
    """The module that works a real TPM."""
    spec = importlib.util.spec_from_file_location("residency_real_tpm", _VECTORS / "real_tpm.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def refusals():
    """The rules that refuse evidence, sorted."""

    def judged(evidence, checks=KEY_CHECKS + CERTIFY_CHECKS):
        return sorted(f.rule for f in judge_all(checks, evidence).findings if f.verdict is Verdict.FAILED)

    return judged


def _tpm2b(data):
    return struct.pack(">H", len(data)) + data


@dataclass(frozen=True)
class SoftTpm:
    """Keys in software that have the form of TPM keys: they can sign whatever a test wants."""

    iak_key: object
    statement: TpmStatement
    qualifier: bytes = bytes(range(32))

    def attest(self, **other):
        """A TPMS_ATTEST of TPM2_Certify with some fields replaced."""
        values = {
            "magic": 0xFF544347,
            "type": 0x8017,
            "signer": qualified_name(self.statement.iak.public),
            "extra": self.qualifier,
            "firmware": int(self.statement.firmware, 16),
            "name": name(self.statement.idevid.public),
            "qualified_name": qualified_name(self.statement.idevid.public),
            "tail": b"",
        } | other
        return (
            struct.pack(">IH", values["magic"], values["type"])
            + _tpm2b(values["signer"])
            + _tpm2b(values["extra"])
            + struct.pack(">QIIBQ", 1000, 1, 0, 1, values["firmware"])
            + _tpm2b(values["name"])
            + _tpm2b(values["qualified_name"])
            + values["tail"]
        )

    def sign(self, attest, *, scheme=None, hash_algorithm=None):
        """A TPMT_SIGNATURE by the IAK, under its own scheme or another."""
        own = parse_public(self.statement.iak.public).scheme
        scheme, hash_algorithm = scheme or own.algorithm, hash_algorithm or own.hash_algorithm
        digest = _HASHES[hash_algorithm]
        head = struct.pack(">HH", scheme, hash_algorithm)
        if isinstance(self.iak_key, ec.EllipticCurvePrivateKey):
            size = (self.iak_key.key_size + 7) // 8
            numbers = decode_dss_signature(self.iak_key.sign(attest, ec.ECDSA(digest)))
            return head + b"".join(_tpm2b(n.to_bytes(size, "big")) for n in numbers)
        pad = (
            padding.PSS(padding.MGF1(digest), digest.digest_size) if scheme == 0x0016 else padding.PKCS1v15()
        )
        return head + _tpm2b(self.iak_key.sign(attest, pad, digest))

    def evidence(self, *, statement=None, scheme=None, hash_algorithm=None, **other):
        """Signed evidence with some fields of the attest replaced."""
        attest = self.attest(**other)
        return TpmEvidence(
            statement or self.statement,
            self.qualifier,
            attest,
            self.sign(attest, scheme=scheme, hash_algorithm=hash_algorithm),
        )


def _private_key(chosen):
    if chosen.kind == "rsa":
        return rsa.generate_private_key(65537, chosen.bits)
    curve = next(curve for bits, curve in CURVES.values() if bits == chosen.bits)
    return ec.generate_private_key(curve)


def _public_with(chosen, key):
    numbers = key.public_key().public_numbers()
    size = (chosen.bits + 7) // 8
    values = (numbers.n,) if chosen.kind == "rsa" else (numbers.x, numbers.y)
    unique = tuple(value.to_bytes(size, "big") for value in values)
    return pack_public(replace(parse_public(chosen.public), unique=unique))


@pytest.fixture(scope="session")
def soft_tpm():
    """Make a software TPM with these templates; keys are made once."""
    keys = {}

    def key_of(role, template_id):
        if (role, template_id) not in keys:
            keys[role, template_id] = _private_key(template(role, template_id))
        return keys[role, template_id]

    def stated(role, template_id):
        chosen = template(role, template_id)
        return KeyStatement(template_id, _public_with(chosen, key_of(role, template_id)))

    def make(eks=("L-2",), iak="H-3", idevid="H-3"):
        statement = TpmStatement(
            eks=tuple(stated(Role.EK, ek) for ek in eks),
            iak=stated(Role.IAK, iak),
            idevid=stated(Role.IDEVID, idevid),
            manufacturer="49424d00",
            vendor="SW   TPM",
            firmware="2019102300163636",
            spec=TpmSpec("2.0", "0", "164"),
            origin="manufactured",
        )
        return SoftTpm(key_of(Role.IAK, iak), statement)

    return make
