"""A policy document as values that a test can change, and facts that it admits."""

import json
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ca_service.judgment import Verdict, judge_all
from ca_service.policy import PolicyFacts, checks, load
from vtpm.wire.jwk import EcJwk

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def _value(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_value(member)}" for name, member in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_value(element) for element in value) + "]"
    if isinstance(value, datetime):
        return value.isoformat()
    return json.dumps(value)


@pytest.fixture(scope="session")
def toml():
    """A document of tables and arrays of tables as TOML text."""

    def written(content):
        return "".join(f"{name} = {_value(value)}\n" for name, value in content.items())

    return written


@pytest.fixture(scope="session")
def keys():
    """Three KBS keys: two on P-384, one on P-256."""
    private = [
        ec.derive_private_key(1001, ec.SECP384R1()),
        ec.derive_private_key(1002, ec.SECP384R1()),
        ec.derive_private_key(1003, ec.SECP256R1()),
    ]
    return [EcJwk.from_key(key.public_key()) for key in private]


@pytest.fixture
def content(keys):
    """A document that has one of everything."""
    return {
        "schema": 1,
        "grant": {"max_age_s": 3600},
        "tpm": {"ek": ["L-1", "H-3"], "iak": ["H-3"], "idevid": ["H-3", "H-2"]},
        "store": {"formats": ["cocoonfs/1"]},
        "kbs": [
            {
                "id": "org-kbs",
                "label": "Organisation",
                "status": "trusted",
                "origins": ["kbs-generated"],
                "release_policies": ["ab" * 32, "cd" * 32],
                "valid_from": datetime(2026, 1, 1, tzinfo=UTC),
                "valid_to": datetime(2027, 1, 1, tzinfo=UTC),
                "key": [{"jwk": keys[0].members()}, {"jwk": keys[2].members()}],
                "resource": [
                    {"pattern": "default/vtpm/*"},
                    {"pattern": "default/pool/*", "shared": True},
                ],
            },
            {
                "id": "second-kbs",
                "status": "trusted",
                "origins": ["kbs-generated", "provisioned"],
                "key": [{"jwk": keys[1].members()}],
                "resource": [{"pattern": "*/vtpm/*"}],
            },
        ],
        "launch": [
            {
                "name": "standard",
                "measurement": "11" * 48,
                "capabilities": ["verifies-grants", "reports-state"],
                "products": ["Milan", "Genoa"],
            },
            {
                "name": "oracle",
                "measurement": "22" * 48,
                "capabilities": [],
                "products": ["Milan"],
            },
        ],
    }


@pytest.fixture
def facts(keys):
    """Facts that `content` admits."""
    return PolicyFacts(
        product="Milan",
        simulated=True,
        measurement=b"\x11" * 48,
        vmpl=0,
        kbs_thumbprint=keys[0].thumbprint(),
        resource="default/vtpm/vm-1",
        origin="kbs-generated",
        release_policy="ab" * 32,
        grant_iat=int(AT.timestamp()) - 60,
        store_mode="persistent",
        store_format="cocoonfs/1",
        ek_templates=("L-1", "H-3"),
        iak_template="H-3",
        idevid_template="H-3",
        profile="svsm-vtpm-ca:1",
        at=AT,
    )


@pytest.fixture(scope="session")
def refusals(toml):
    """The rules by which a document (text, values or a loaded policy) refuses facts, in order."""

    def judged(policy, facts, mode="simulation"):
        if isinstance(policy, dict):
            policy = toml(policy)
        if isinstance(policy, str):
            policy = load(policy)
        trace = judge_all(checks(policy, mode), facts)
        return [f.rule for f in trace.findings if f.verdict is Verdict.FAILED]

    return judged
