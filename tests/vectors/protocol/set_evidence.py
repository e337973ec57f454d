"""A whole enrolment that a CA must admit, and changed ones, each with the rule that must refuse it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from fixed import (
    AUD,
    CLAIMS,
    IAK_KEY,
    IAT,
    KBS_KEY,
    KBS_KEY_256,
    NOW,
    P384,
    RELEASE_POLICY,
    REPORT_ID,
    RUNTIME_DATA,
    STORE,
    TPM,
    VOLATILE,
    Attest,
    grant,
    jwk,
    key,
    scalar,
    sign,
    statement,
    stream,
    tpm_signature,
)

from ca_service.enrollment.nonces import make_nonce
from vtpm.snp.platform import Platform
from vtpm.wire.certtable import CertKind, pack_table
from vtpm.wire.encoding import b64url
from vtpm.wire.enrollment import Certify, EnrollmentRequest, Evidence, time_text
from vtpm.wire.public_area import PublicArea, pack_public, parse_public
from vtpm.wire.report import pack_report, pack_signature
from vtpm.wire.runtime_data import (
    PROFILE,
    KbsStatement,
    KeyStatement,
    RuntimeData,
    certify_qualifier,
    report_data,
)
from vtpm.wire.templates import Role, name, qualified_name

FILE = Path(__file__).with_name("evidence.json")
NONCE_KEY = stream("nonce key", 32)
NONCE_EXPIRES = NOW + timedelta(minutes=5)
NONCE = make_nonce(NONCE_KEY, AUD, NONCE_EXPIRES, stream("nonce", 16))
MEASUREMENT = stream("measurement", 48)
MEASUREMENT_WITHOUT = stream("measurement of a build that cannot verify grants", 48)
MEASUREMENT_GENOA = stream("measurement of a build for Genoa", 48)
SUSPENDED, EXPIRED, UNKNOWN = key("kbs/suspended", P384), key("kbs/expired", P384), key("kbs/unknown", P384)
CHIP_SECRET = stream("chip", 32)


def _jwk_toml(private: object) -> str:
    return "{ " + ", ".join(f'{n} = "{v}"' for n, v in jwk(private).members().items()) + " }"


def _kbs_toml(entry: str, private: object, more: str = "") -> str:
    return f"""
[[kbs]]
id = "{entry}"
origins = ["kbs-generated"]
release_policies = ["{RELEASE_POLICY}"]
{more or 'status = "trusted"'}
[[kbs.key]]
jwk = {_jwk_toml(private)}
[[kbs.resource]]
pattern = "default/*/tpm-state"
"""


DEMANDS = f"""host_data = ["{bytes(32).hex()}"]
guest_policy = {{ require = [], forbid = ["cxl"], either = ["smt", "single-socket", "aes-256-xts", "rapl-disabled", \
"ciphertext-hiding", "page-swap-disabled"] }}
platform = "vectors"
unconstrained = ["id-key", "author-key", "family-id", "image-id", "guest-svn", "abi"]
"""
LEVELS = "{ bootloader = 4, tee = 0, snp = 27, microcode = 219 }"
DEMANDED_PLATFORM = f"""
[[platform]]
name = "vectors"
keys = ["VCEK"]
report_versions = [3, 4, 5]
platform_info = {{ require = ["ecc", "alias-check"], forbid = ["tio"], either = ["smt", "tsme", "rapl-disabled", \
"ciphertext-hiding", "other"] }}
provisional_firmware = false
unconstrained = ["launch-mitigations", "current-mitigations", "chip", "crl-age"]

[[platform.tcb]]
product = "Milan"
firmware = "1.55.29"
reported = {LEVELS}
committed = {LEVELS}
launch = {LEVELS}

[[platform.tcb]]
product = "Genoa"
firmware = "1.55.29"
reported = {LEVELS}
committed = {LEVELS}
launch = {LEVELS}
"""

POLICY = f"""schema = 1

[grant]
max_age_s = 3600

[tpm]
ek = ["L-1", "H-3"]
iak = ["H-3"]
idevid = ["H-3"]

[store]
formats = ["cocoonfs/1"]

[[launch]]
name = "vectors"
measurement = "{MEASUREMENT.hex()}"
capabilities = ["verifies-grants", "reports-state"]
products = ["Milan"]
{DEMANDS}
[[launch]]
name = "without-grants"
measurement = "{MEASUREMENT_WITHOUT.hex()}"
capabilities = ["oracle-free"]
products = ["Milan"]
{DEMANDS}
[[launch]]
name = "for-genoa"
measurement = "{MEASUREMENT_GENOA.hex()}"
capabilities = ["verifies-grants", "reports-state"]
products = ["Genoa"]
{DEMANDS}{DEMANDED_PLATFORM}""" + "".join(
    (
        _kbs_toml("trusted", KBS_KEY),
        _kbs_toml("suspended", SUSPENDED, 'status = "suspended"'),
        _kbs_toml("expired", EXPIRED, 'status = "trusted"\nvalid_to = 2025-12-31T00:00:00Z'),
    )
)


def _platform() -> Platform:
    """The chip; its VCEK certificate is kept over runs, because RSASSA-PSS salts are random."""
    made = Platform.made(CHIP_SECRET, clock=lambda: NOW - timedelta(days=30))
    if FILE.exists():
        kept = bytes.fromhex(json.loads(FILE.read_text())["vcek"])
        old, new = (x509.load_der_x509_certificate(der) for der in (kept, made.vcek_certificate))
        if old.tbs_certificate_bytes == new.tbs_certificate_bytes:
            return replace(made, vcek_certificate=kept)
    return made


PLATFORM = _platform()
REPORT: dict[str, object] = {
    "version": 3,
    "policy": 0x30000,
    "vmpl": 0,
    "platform_info": 0x25,
    "current_tcb": PLATFORM.tcb,
    "reported_tcb": PLATFORM.tcb,
    "committed_tcb": PLATFORM.tcb,
    "launch_tcb": PLATFORM.tcb,
    "current_firmware": (1, 55, 29),
    "committed_firmware": (1, 55, 29),
    "measurement": MEASUREMENT,
    "report_id": REPORT_ID,
    "cpuid": (0x19, 1, 1),
    "chip_id": PLATFORM.chip_id,
}
TABLE = pack_table({CertKind.VCEK: PLATFORM.vcek_certificate})
DATA = replace(RUNTIME_DATA, nonce=NONCE)


def _report(canonical: bytes, changes: Mapping[str, object]) -> bytes:
    body = pack_report(**(REPORT | {"report_data": report_data(canonical)} | changes))
    return body + pack_signature(*sign(body, PLATFORM.vcek_key()))


@dataclass(frozen=True)
class Case:
    """An enrolment as it is built: each part from the one before, unless a change says otherwise."""

    data: RuntimeData = DATA
    report: Mapping[str, object] = field(default_factory=dict)
    attest: Mapping[str, object] = field(default_factory=dict)
    signer: object = IAK_KEY
    hash_algorithm: int = 0x000C
    at: datetime = NOW
    spoil: Callable[[dict[str, dict[str, object]]], None] = lambda _request: None

    def document(self) -> dict[str, dict[str, object]]:
        canonical = self.data.canonical()
        fields = {
            "extra_data": certify_qualifier(canonical),
            "qualified_signer": qualified_name(self.data.tpm.iak.public),
            "name": name(self.data.tpm.idevid.public),
            "qualified_name": qualified_name(self.data.tpm.idevid.public),
        }
        attest = Attest(**(fields | dict(self.attest))).pack()
        request = EnrollmentRequest(
            Evidence(PROFILE, canonical, _report(canonical, self.report), TABLE),
            Certify(attest, tpm_signature(attest, self.signer, hash_algorithm=self.hash_algorithm)),
        )
        document = json.loads(json.dumps(request.to_json()))
        self.spoil(document)
        return document


def _claims(private: object = KBS_KEY, **claims: object) -> RuntimeData:
    """Runtime data whose grant has other claims or another signer."""
    return replace(DATA, kbs=KbsStatement(jwk(private), grant(claims, private=private)))


def _store(**changes: object) -> RuntimeData:
    return replace(DATA, store=replace(STORE, **changes))


def _tpm(**changes: object) -> RuntimeData:
    return replace(DATA, tpm=replace(TPM, **changes))


def _area(statement_: KeyStatement, change: Callable[[PublicArea], PublicArea]) -> KeyStatement:
    return replace(statement_, public=pack_public(change(parse_public(statement_.public))))


def _attributes(value: int) -> Callable[[PublicArea], PublicArea]:
    return lambda area: replace(area, attributes=value)


def _unique(*parts: bytes) -> Callable[[PublicArea], PublicArea]:
    return lambda area: replace(area, unique=parts)


def _set(path: str, value: object) -> Callable[[dict[str, dict[str, object]]], None]:
    def spoil(request: dict[str, dict[str, object]]) -> None:
        part, member = path.split(".")
        if value is ...:
            del request[part][member]
        else:
            request[part][member] = value

    return spoil


def _foreign_vcek() -> bytes:
    """The VCEK certificate with the last byte of its signature changed."""
    spoilt = bytearray(PLATFORM.vcek_certificate)
    spoilt[-1] ^= 1
    return pack_table({CertKind.VCEK: bytes(spoilt)})


def _flipped_measurement(request: dict[str, dict[str, object]]) -> None:
    report = bytearray(_report(DATA.canonical(), {}))
    report[0x90] ^= 1
    request["evidence"]["report"] = b64url(bytes(report))


def _firmware(*version: int) -> dict[str, object]:
    return {"current_firmware": version, "committed_firmware": version}


def _without_certify(request: dict[str, dict[str, object]]) -> None:
    del request["certify"]


def _other_runtime_data(request: dict[str, dict[str, object]]) -> None:
    request["evidence"]["runtime_data"] = b64url(_store(created="earlier").canonical())


EK_RSA, EK_ECC, IAK, IDEVID = TPM.eks[0], TPM.eks[1], TPM.iak, TPM.idevid
EVEN = bytes([*parse_public(EK_RSA.public).unique[0][:-1], 2])
OTHER_IAK = statement(Role.IAK, "H-3", "/other")
OWNER_HIERARCHY = b"\x00\x0c" + stream("qualified name under the owner", 48)

REFUSED: dict[str, tuple[str, Case]] = {
    "for-another-ca": ("nonce.audience", Case(replace(DATA, aud="ca.other.example"))),
    "made-up-nonce": ("nonce.genuine", Case(replace(DATA, nonce=b64url(bytes(56))))),
    "nonce-after-five-minutes": ("nonce.unexpired", Case(at=NONCE_EXPIRES + timedelta(seconds=1))),
    "report-version-1": ("snp.version", Case(report={"version": 1})),
    "report-version-6": ("snp.version", Case(report={"version": 6})),
    "unknown-processor": ("snp.product", Case(report={"cpuid": (0x19, 0x50, 0)})),
    "signed-by-no-key": ("snp.key-kind", Case(report={"key_flags": 7 << 2})),
    "vcek-for-a-report-signed-by-a-vlek": ("snp.chain", Case(report={"key_flags": 1 << 2})),
    "no-certificates": ("snp.leaf-present", Case(spoil=_set("evidence.certificates", ...))),
    "vcek-with-another-name": (
        "snp.chain",
        Case(spoil=_set("evidence.certificates", b64url(TABLE.replace(b"SEV-VCEK", b"SEV-VLEK")))),
    ),
    "vcek-not-signed-by-the-ask": (
        "snp.chain",
        Case(spoil=_set("evidence.certificates", b64url(_foreign_vcek()))),
    ),
    "before-the-vcek-was-issued": ("snp.validity", Case(at=NOW - timedelta(days=31))),
    "unknown-signature-algorithm": ("snp.signature-algorithm", Case(report={"signature_algo": 2})),
    "masked-chip-key": ("snp.mask-chip-key", Case(report={"key_flags": 2})),
    "measurement-changed-after-signing": ("snp.signature", Case(spoil=_flipped_measurement)),
    "tcb-not-the-certified-one": ("snp.tcb", Case(report={"reported_tcb": bytes(8)})),
    "chip-not-the-certified-one": ("snp.hwid", Case(report={"chip_id": bytes(63) + b"\1"})),
    "report-for-other-runtime-data": ("evidence.report-data", Case(spoil=_other_runtime_data)),
    "report-data-of-the-sha512-rule": (
        "evidence.report-data",
        Case(report={"report_data": stream("any SHA-512", 64)}),
    ),
    "vmpl-1": ("snp.vmpl", Case(report={"vmpl": 1})),
    "debugging-allowed": ("snp.debug", Case(report={"policy": 0x30000 | 1 << 19})),
    "migration-allowed": ("snp.migration", Case(report={"policy": 0x30000 | 1 << 18})),
    "reserved-policy-bit": ("snp.guest-policy", Case(report={"policy": 0x30000 | 1 << 40})),
    "reported-tcb-above-the-current": ("snp.tcb-order", Case(report={"current_tcb": bytes(8)})),
    "grant-of-other-claims": (
        "grant.signature",
        Case(
            replace(
                DATA,
                kbs=KbsStatement(
                    jwk(KBS_KEY),
                    ".".join(
                        [
                            grant().split(".")[0],
                            grant({"origin": "provisioned"}).split(".")[1],
                            grant().split(".")[2],
                        ]
                    ),
                ),
            )
        ),
    ),
    "grant-by-another-key-than-stated": (
        "grant.key",
        Case(replace(DATA, kbs=KbsStatement(jwk(KBS_KEY), grant(private=UNKNOWN)))),
    ),
    "grant-from-the-future": ("grant.issued-at", Case(_claims(iat=IAT + 90, exp=IAT + 300))),
    "grant-that-ends-before-it-begins": ("grant.expiry", Case(_claims(exp=IAT - 1))),
    "grant-of-another-launch": ("grant.report-id", Case(_claims(report_id="00" * 32))),
    "grant-of-another-secret": ("grant.key-id", Case(_store(key_id=b64url(bytes(32))))),
    "grant-that-names-one-key-twice": ("grant.thumbprints", Case(_claims(epk_jkt=CLAIMS.tee_jkt))),
    "unknown-kbs": ("kbs.listed", Case(_claims(UNKNOWN))),
    "listed-kbs-with-another-key": ("kbs.listed", Case(_claims(KBS_KEY_256))),
    "suspended-kbs": ("kbs.status", Case(_claims(SUSPENDED))),
    "kbs-no-longer-valid": ("kbs.valid", Case(_claims(EXPIRED))),
    "resource-of-a-tenant": ("kbs.resource", Case(_claims(resource="tenant/vm-0001/tpm-state"))),
    "secret-that-a-tenant-stored": ("kbs.origin", Case(_claims(origin="provisioned"))),
    "other-release-policy": ("kbs.release-policy", Case(_claims(policy="00" * 32))),
    "grant-older-than-an-hour": ("grant.age", Case(_claims(iat=IAT - 3600, exp=IAT - 3300))),
    "unknown-measurement": ("launch.measurement", Case(report={"measurement": bytes(48)})),
    "build-that-verifies-no-grants": (
        "launch.capabilities",
        Case(report={"measurement": MEASUREMENT_WITHOUT}),
    ),
    "build-for-another-product": ("launch.product", Case(report={"measurement": MEASUREMENT_GENOA})),
    "other-host-data": ("launch.host-data", Case(report={"host_data": stream("other host data", 32)})),
    "memory-over-cxl-allowed": ("launch.guest-policy", Case(report={"policy": 0x30000 | 1 << 21})),
    "report-version-2": ("platform.report-version", Case(report={"version": 2, "cpuid": (0, 0, 0)})),
    "memory-aliases-not-checked": ("platform.info", Case(report={"platform_info": 0x05})),
    "firmware-not-committed": (
        "platform.provisional-firmware",
        Case(report={"committed_firmware": (1, 55, 28)}),
    ),
    "launched-under-older-microcode": (
        "platform.launch-tcb",
        Case(report={"launch_tcb": PLATFORM.tcb[:7] + bytes([218])}),
    ),
    "older-firmware-api": ("platform.api", Case(report=_firmware(1, 54, 99))),
    "older-firmware-build": ("platform.build", Case(report=_firmware(1, 55, 28))),
    "volatile-store": ("store.persistent", Case(replace(DATA, store=VOLATILE))),
    "other-store-format": ("store.format", Case(_store(format="cocoonfs/2"))),
    "template-not-allowed": ("tpm.template-allowed", Case(_tpm(idevid=statement(Role.IDEVID, "H-2")))),
    "ek-that-signs": (
        "tpm.ek-template",
        Case(_tpm(eks=(_area(EK_RSA, _attributes(0x000700B2)),))),
    ),
    "iak-not-restricted": ("tpm.iak-template", Case(_tpm(iak=_area(IAK, _attributes(0x000400F2))))),
    "idevid-restricted": ("tpm.idevid-template", Case(_tpm(idevid=_area(IDEVID, _attributes(0x000500F2))))),
    "idevid-with-the-policy-of-an-iak": (
        "tpm.idevid-template",
        Case(_tpm(idevid=_area(IDEVID, lambda a: replace(a, policy=parse_public(IAK.public).policy)))),
    ),
    "even-modulus": ("tpm.ek-key", Case(_tpm(eks=(_area(EK_RSA, _unique(EVEN)),)))),
    "iak-off-curve": ("tpm.iak-key", Case(_tpm(iak=_area(IAK, _unique(bytes(48), bytes(48)))))),
    "idevid-off-curve": ("tpm.idevid-key", Case(_tpm(idevid=_area(IDEVID, _unique(bytes(48), bytes(48)))))),
    "one-key-twice": (
        "tpm.keys-distinct",
        Case(_tpm(idevid=_area(IDEVID, _unique(*parse_public(IAK.public).unique)))),
    ),
    "no-certify": ("certify.present", Case(spoil=_without_certify)),
    "attest-with-a-byte-more": (
        "certify.form",
        Case(spoil=_set("certify.attest", b64url(Attest().pack() + b"\0"))),
    ),
    "magic-of-no-tpm": ("certify.form", Case(attest={"magic": 0xFF544348})),
    "certify-of-an-older-enrolment": ("certify.qualifier", Case(attest={"extra_data": bytes(32)})),
    "certify-of-another-key": ("certify.name", Case(attest={"name": name(OTHER_IAK.public)})),
    "idevid-under-the-owner": ("certify.qualified-name", Case(attest={"qualified_name": OWNER_HIERARCHY})),
    "iak-under-the-owner": ("certify.signer", Case(attest={"qualified_signer": OWNER_HIERARCHY})),
    "other-firmware": ("certify.firmware", Case(attest={"firmware": bytes(8)})),
    "hash-of-the-requesters-choice": ("certify.scheme", Case(hash_algorithm=0x000B)),
    "signed-by-another-key": ("certify.signature", Case(signer=key("somebody", P384))),
}


def _changes(case: Case) -> dict[str, object]:
    """The members in which a request differs from the admitted one; null means that the member is missing."""
    document = case.document()
    changes: dict[str, object] = {}
    for part, members in ADMITTED.items():
        if part not in document:
            changes[part] = None
            continue
        for member, value in members.items():
            if document[part].get(member) != value:
                changes[f"{part}.{member}"] = document[part].get(member)
    return changes


ADMITTED = Case().document()


def make() -> dict[str, object]:
    """The file evidence.json."""
    return {
        "about": (
            "`request` is to be admitted at `at` by a CA with this id, nonce key, policy and the simulated root. Each"
            " of `refused` replaces the members named in `changes` (null: leaves them out) and must fail by `rule`."
        ),
        "ca_id": AUD,
        "mode": "simulation",
        "nonce_key": NONCE_KEY.hex(),
        "at": time_text(NOW),
        "policy": POLICY,
        "vcek": PLATFORM.vcek_certificate.hex(),
        "vcek_key": scalar(PLATFORM.vcek_key()),
        "request": ADMITTED,
        "refused": [
            {"name": case, "rule": rule, "at": time_text(built.at), "changes": _changes(built)}
            for case, (rule, built) in REFUSED.items()
        ],
    }
