"""A policy document as values that a test can change, and facts that it admits."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from policy_edits import written

from ca_service.judgment import Verdict, judge_all
from ca_service.policy import LaunchFacts, PolicyFacts, checks, launch_checks, load
from vtpm.wire.jwk import EcJwk
from vtpm.wire.report import Product, Report, pack_report, pack_signature

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
CHIP = bytes(range(64))
TCB = bytes([4, 0, 0, 0, 0, 0, 27, 219])
LAUNCHED = {
    "id_keys": ["5a" * 48],
    "host_data": ["d0" * 32, "d1" * 32],
    "family_ids": ["fa" * 16],
    "image_ids": ["1a" * 16],
    "min_guest_svn": 3,
    "min_abi": "1.51",
    "guest_policy": {
        "require": ["page-swap-disabled"],
        "forbid": ["smt", "cxl"],
        "either": ["single-socket", "aes-256-xts", "rapl-disabled", "ciphertext-hiding"],
    },
}
REPORT = {
    "version": 5,
    "guest_svn": 3,
    "policy": 1 << 17 | 1 << 25 | 1 << 8 | 51,
    "family_id": b"\xfa" * 16,
    "image_id": b"\x1a" * 16,
    "current_tcb": TCB,
    "platform_info": 0x25,
    "key_flags": 1,
    "measurement": b"\x11" * 48,
    "host_data": b"\xd0" * 32,
    "id_key_digest": b"\x5a" * 48,
    "author_key_digest": b"\xa5" * 48,
    "reported_tcb": TCB,
    "cpuid": (0x19, 1, 1),
    "chip_id": CHIP,
    "committed_tcb": TCB,
    "current_firmware": (1, 55, 29),
    "committed_firmware": (1, 55, 29),
    "launch_tcb": TCB,
    "launch_mit_vector": 0b101,
    "current_mit_vector": 0b111,
}


def floors(bootloader, tee, snp, microcode):
    """One floor for the reported, the committed and the launch TCB."""
    levels = {"bootloader": bootloader, "tee": tee, "snp": snp, "microcode": microcode}
    return {name: dict(levels) for name in ("reported", "committed", "launch")}


@pytest.fixture(scope="session")
def toml():
    """A document of tables and arrays of tables as TOML text."""
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
                "unconstrained": ["release-policy"],
            },
        ],
        "launch": [
            {
                "name": "standard",
                "measurement": "11" * 48,
                **LAUNCHED,
                "capabilities": ["verifies-grants", "reports-state"],
                "products": ["Milan", "Genoa"],
                "platform": "fleet",
                "unconstrained": ["author-key"],
            },
            {
                "name": "oracle",
                "measurement": "22" * 48,
                "guest_policy": LAUNCHED["guest_policy"],
                "capabilities": [],
                "products": ["Milan"],
                "platform": "fleet",
                "unconstrained": [
                    "id-key",
                    "author-key",
                    "host-data",
                    "family-id",
                    "image-id",
                    "guest-svn",
                    "abi",
                ],
            },
            {
                "name": "signed",
                **LAUNCHED,
                "id_keys": ["5c" * 48, "5b" * 48],
                "author_keys": ["a5" * 48],
                "capabilities": ["oracle-free"],
                "products": ["Milan"],
                "platform": "fleet",
                "unconstrained": ["measurement"],
            },
        ],
        "platform": [
            {
                "name": "fleet",
                "keys": ["VCEK"],
                "report_versions": [3, 5],
                "platform_info": {
                    "require": ["ecc", "alias-check"],
                    "forbid": ["tio"],
                    "either": ["smt", "tsme", "rapl-disabled", "ciphertext-hiding", "other"],
                },
                "mitigations": {"launch": 0b101, "current": 0b110},
                "chips": {"allow": [CHIP.hex(), "fe" * 8]},
                "provisional_firmware": False,
                "crl_max_age_days": 30,
                "tcb": [
                    {"product": "Milan", "firmware": "1.55.29", **floors(4, 0, 27, 219)},
                    {"product": "Genoa", "firmware": "1.55.40", **floors(10, 0, 24, 84)},
                    {
                        "product": "Milan",
                        "from": AT + timedelta(days=30),
                        "firmware": "1.55.40",
                        **floors(5, 0, 28, 220),
                    },
                ],
            },
        ],
    }


@pytest.fixture(scope="session")
def report():
    """A report that `content` admits, with some fields changed; unsigned, for a policy does not look at that."""

    def made(**changes):
        return Report.parse(pack_report(**(REPORT | changes)) + pack_signature(1, 1))

    return made


@pytest.fixture
def launch(report):
    """What is known of a launch that `content` admits."""
    return LaunchFacts(
        report=report(),
        product=Product.MILAN,
        simulated=True,
        crl_issued_at=AT - timedelta(days=10),
        at=AT,
    )


@pytest.fixture
def launched(launch, report):
    """The same with some fields of the report changed."""
    return lambda **changes: replace(launch, report=report(**changes))


@pytest.fixture
def facts(keys, launch):
    """Facts that `content` admits."""
    return PolicyFacts(
        launch=launch,
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
    )


loaded = lru_cache(maxsize=16)(load)


@pytest.fixture(scope="session")
def judge(toml):
    """The trace of a document (text, values or a loaded policy) about facts: of an enrolment, or of a launch alone."""

    def judged(policy, facts, mode="simulation"):
        if isinstance(policy, dict):
            policy = toml(policy)
        if isinstance(policy, str):
            policy = loaded(policy)
        if isinstance(facts, LaunchFacts):
            return judge_all(launch_checks(policy, mode), facts)
        return judge_all(launch_checks(policy, mode), facts.launch) + judge_all(checks(policy, mode), facts)

    return judged


@pytest.fixture(scope="session")
def refusals(judge):
    """The rules by which a document refuses facts, in order."""

    def judged(policy, facts, mode="simulation"):
        return [f.rule for f in judge(policy, facts, mode).findings if f.verdict is Verdict.FAILED]

    return judged
