"""Keys and statements that every set of vectors shares, all derived from labels: nothing here is a secret.

ECDSA signatures are made deterministically (RFC 6979), so that the same program writes the same files.
"""

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils

from vtpm.wire.encoding import b64std, b64url, canonical
from vtpm.wire.grant import GRANT_TYP, GrantClaims, key_id
from vtpm.wire.jwk import EcJwk
from vtpm.wire.public_area import pack_public, parse_public
from vtpm.wire.runtime_data import (
    KbsStatement,
    KeyStatement,
    RuntimeData,
    SessionData,
    StoreStatement,
    TpmSpec,
    TpmStatement,
    certify_qualifier,
)
from vtpm.wire.templates import Role, name, qualified_name, template

P256, P384, P521 = ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()
CURVES = {256: P256, 384: P384, 521: P521}
HASHES = {"P-256": hashes.SHA256(), "P-384": hashes.SHA384()}
NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


def stream(label: str, size: int) -> bytes:
    """As many bytes as wanted out of a label."""
    blocks = (hashlib.sha512(f"vtpm-ca vectors/{label}/{i}".encode()).digest() for i in range(size // 64 + 1))
    return b"".join(blocks)[:size]


def key(label: str, curve: ec.EllipticCurve = P256) -> ec.EllipticCurvePrivateKey:
    """The private key of a label; its scalar is reduced to one that every curve takes."""
    return ec.derive_private_key(int.from_bytes(stream(label, 32), "big") >> 8, curve)


def jwk(private: ec.EllipticCurvePrivateKey) -> EcJwk:
    return EcJwk.from_key(private.public_key())


def scalar(private: ec.EllipticCurvePrivateKey) -> str:
    """The private scalar in hex, for the reader of the vectors."""
    return f"{private.private_numbers().private_value:x}"


SMALL_PRIMES = [p for p in range(3, 2000, 2) if all(p % d for d in range(3, math.isqrt(p) + 1, 2))]


def _is_prime(n: int) -> bool:
    if any(n % p == 0 for p in SMALL_PRIMES):
        return False
    d, s = n - 1, 0
    while d % 2 == 0:
        d, s = d // 2, s + 1
    for base in SMALL_PRIMES[:24]:
        x = pow(base, d, n)
        if x in {1, n - 1}:
            continue
        if not any((x := x * x % n) == n - 1 for _ in range(s - 1)):
            return False
    return True


def _prime(label: str, bits: int) -> int:
    start = int.from_bytes(stream(label, bits // 8), "big") | (3 << (bits - 2)) | 1
    return next(n for n in range(start, start + 100_000, 2) if n % 65537 != 1 and _is_prime(n))


def rsa_key(label: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """An RSA key out of a label; for decrypting challenges in tests, and for nothing else."""
    p, q = _prime(label + "/p", bits // 2), _prime(label + "/q", bits // 2)
    d = pow(65537, -1, math.lcm(p - 1, q - 1))
    public = rsa.RSAPublicNumbers(65537, p * q)
    crt = (rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q))
    return rsa.RSAPrivateNumbers(p, q, d, *crt, public).private_key()


RSA_EK = rsa_key("ek/L-1")


def tpm_public(role: Role, template_id: str, label: str = "") -> bytes:
    """The TPMT_PUBLIC of a made-up TPM's key."""
    each = template(role, template_id)
    area = parse_public(each.public)
    if each.kind == "rsa":
        modulus = RSA_EK.public_key().public_numbers().n
        return pack_public(replace(area, unique=(modulus.to_bytes(each.bits // 8, "big"),)))
    point = jwk(tpm_key(role, template_id, label))
    return pack_public(replace(area, unique=(point.x, point.y)))


def tpm_key(role: Role, template_id: str, label: str = "") -> ec.EllipticCurvePrivateKey:
    """The private half of an ECC key of the made-up TPM."""
    return key(f"tpm{label}/{role}/{template_id}", CURVES[template(role, template_id).bits])


def statement(role: Role, template_id: str, label: str = "") -> KeyStatement:
    return KeyStatement(template_id, tpm_public(role, template_id, label))


AUD = "ca.vectors.example"
NONCE = b64url(stream("ca nonce", 56))
SESSION_KEY = key("session")
TEE_KEY = key("tee", P521)
EPHEMERAL_KEY = key("ephemeral", P521)
KBS_KEY = key("kbs", P384)
KBS_KEY_256 = key("kbs/p256", P256)
SECRET = stream("persistence key", 32)
KBS_NONCE = b64std(stream("kbs challenge", 32))
REPORT_ID = stream("report id", 32)
RELEASE_POLICY = hashlib.sha256(b"vectors release policy").hexdigest()
IAT = int(NOW.timestamp()) - 20

CLAIMS = GrantClaims(
    epk_jkt=jwk(EPHEMERAL_KEY).thumbprint(),
    tee_jkt=jwk(TEE_KEY).thumbprint(),
    nonce=KBS_NONCE,
    key_id=key_id(SECRET),
    resource="default/vm-0001/tpm-state",
    origin="kbs-generated",
    report_id=REPORT_ID,
    policy=RELEASE_POLICY,
    iat=IAT,
    exp=IAT + 300,
)


def sign(data: bytes, private: ec.EllipticCurvePrivateKey) -> tuple[int, int]:
    """Deterministic ECDSA with the hash of the curve's size."""
    scheme = ec.ECDSA(HASHES[jwk(private).crv], deterministic_signing=True)
    return utils.decode_dss_signature(private.sign(data, scheme))


def compact(header: Mapping[str, object], payload: bytes, private: ec.EllipticCurvePrivateKey) -> str:
    """A compact JWS over whatever header and payload are given."""
    text = b64url(json.dumps(header, separators=(",", ":")).encode()) + "." + b64url(payload)
    size = len(jwk(private).x)
    r, s = sign(text.encode(), private)
    return text + "." + b64url(r.to_bytes(size, "big") + s.to_bytes(size, "big"))


def grant(
    claims: Mapping[str, object] | None = None,
    header: Mapping[str, object] | None = None,
    private: ec.EllipticCurvePrivateKey = KBS_KEY,
) -> str:
    """A grant with some claims or header members changed; a value of `...` drops the member."""
    own = jwk(private)
    head = {"alg": {"P-256": "ES256", "P-384": "ES384"}[own.crv], "jwk": own.members(), "typ": GRANT_TYP}
    return compact(changed(head, header or {}), canonical(changed(CLAIMS.to_json(), claims or {})), private)


def changed(document: Mapping[str, object], changes: Mapping[str, object]) -> dict[str, object]:
    """A copy with dotted members (`tpm.ek.0.pub`) set, or dropped for `...`."""
    copy = json.loads(json.dumps(document))
    for path, value in changes.items():
        at, *rest = [int(step) if step.isdigit() else step for step in path.split(".")]
        holder = copy
        while rest:
            holder, (at, *rest) = holder[at], rest
        if value is ...:
            del holder[at]
        else:
            holder[at] = value
    return copy


TPM = TpmStatement(
    eks=(statement(Role.EK, "L-1"), statement(Role.EK, "H-3")),
    iak=statement(Role.IAK, "H-3"),
    idevid=statement(Role.IDEVID, "H-3"),
    manufacturer="49424d00",
    vendor="SW   TPM",
    firmware="2019102300163636",
    spec=TpmSpec("2.0", "0", "164"),
    origin="manufactured",
)
STORE = StoreStatement(
    mode="persistent",
    format="cocoonfs/1",
    salt=stream("salt", 16),
    created="this-boot",
    key_id=key_id(SECRET),
    counter=2**100 + 7,
    root=stream("root", 32),
)
VOLATILE = StoreStatement("volatile", "none", b"", "this-boot", key_id(SECRET), 0, b"")
KBS = KbsStatement(jwk(KBS_KEY), grant())
RUNTIME_DATA = RuntimeData(AUD, NONCE, jwk(SESSION_KEY), TPM, KBS, STORE)
SESSION_DATA = SessionData(AUD, NONCE, jwk(SESSION_KEY), KBS, STORE.salt, STORE.key_id)


@dataclass(frozen=True)
class Attest:
    """TPMS_ATTEST of type Certify, each field open to change."""

    magic: int = 0xFF544347
    type: int = 0x8017
    qualified_signer: bytes = qualified_name(TPM.iak.public)
    extra_data: bytes = certify_qualifier(RUNTIME_DATA.canonical())
    clock: tuple[int, int, int, int] = (12345, 1, 0, 1)
    firmware: bytes = bytes.fromhex(TPM.firmware)
    name: bytes = name(TPM.idevid.public)
    qualified_name: bytes = qualified_name(TPM.idevid.public)

    def pack(self) -> bytes:
        return (
            struct.pack(">IH", self.magic, self.type)
            + tpm2b(self.qualified_signer)
            + tpm2b(self.extra_data)
            + struct.pack(">QIIB", *self.clock)
            + self.firmware
            + tpm2b(self.name)
            + tpm2b(self.qualified_name)
        )


def tpm2b(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def tpm_signature(
    data: bytes, private: ec.EllipticCurvePrivateKey, algorithm: int = 0x0018, hash_algorithm: int = 0x000C
) -> bytes:
    """TPMT_SIGNATURE with ECDSA."""
    size = len(jwk(private).x)
    r, s = sign(data, private)
    parts = tpm2b(r.to_bytes(size, "big")) + tpm2b(s.to_bytes(size, "big"))
    return struct.pack(">HH", algorithm, hash_algorithm) + parts


IAK_KEY = tpm_key(Role.IAK, "H-3")
