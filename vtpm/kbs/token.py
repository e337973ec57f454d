"""The attestation token: an EAR in Trustee's form, signed with ES256.

Sources: draft-ietf-rats-ear, draft-ietf-rats-ar4si (trustworthiness vector), and Trustee's `ear_token` and SEV-SNP
verifier for the claims. The token says what was attested. Which secret went out it does not say; the grant does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from vtpm.kbs.errors import RcarError
from vtpm.wire.ear import AFFIRMING, TRUSTEE_PROFILE
from vtpm.wire.encoding import Members
from vtpm.wire.errors import WireError
from vtpm.wire.jwk import EcJwk
from vtpm.wire.rcar import TEE_KEY_ALG, tee_pubkey
from vtpm.wire.report import Product, Report, tcb_components
from vtpm.wire.report_bits import GUEST_POLICY_BITS, PLATFORM_INFO_BITS, bits, guest_policy_abi

LIFETIME: Final = timedelta(minutes=5)
_ISSUER: Final = "CoCo-Attestation-Service"
_MAX_TOKEN: Final = 64 * 1024

_GENUINE_HARDWARE: Final = 2
_NO_KNOWN_WEAKNESS: Final = 3
_UNKNOWN_CONFIGURATION: Final = 36
_APPROVED_EXECUTABLES: Final = 3
_UNRECOGNISED_EXECUTABLES: Final = 33


@dataclass(frozen=True)
class TokenClaims:
    """What a verified token says of its bearer.

    Attributes:
        tee: the key that secrets are to be encrypted to.
        measurement: launch measurement, 48 bytes.
        simulated: whether the simulated platform made the report.
    """

    tee: EcJwk
    measurement: bytes
    simulated: bool


class TokenSigner:
    """Issues tokens and takes back its own.

    Args:
        key: on P-256. It outlives the process, as Trustee's does where one is configured: who judges a token must
            know its signer beforehand.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key

    def issue(
        self, report: Report, tee: EcJwk, nonce: str, *, allowed: bool, simulated: bool, at: datetime
    ) -> str:
        """The compact JWT for a verified attestation.

        Args:
            report: the verified report.
            tee: the attested key.
            nonce: the session's challenge.
            allowed: whether the release policy knows the measurement.
            simulated: whether the report comes from the simulated platform.
            at: now, aware.
        """
        jwk = EcJwk.from_key(self._key.public_key()).members() | {"alg": "ES256"}
        issued = int(at.timestamp())
        claims = {
            "eat_profile": TRUSTEE_PROFILE,
            "iat": issued,
            "exp": issued + int(LIFETIME.total_seconds()),
            "iss": _ISSUER,
            "ear.verifier-id": {"developer": "vtpm-ca", "build": f"vtpm.kbs {version('vtpm-ca')}"},
            "submods": {"cpu0": _appraisal(report, tee, nonce, allowed=allowed, simulated=simulated)},
        }
        header = {"typ": "JWT", "alg": "ES256", "jwk": jwk}
        return jwt.encode(header, claims, ECKey.import_key(self._key), algorithms=["ES256"])

    def verify(self, token: str, at: datetime) -> TokenClaims:
        """Read a token that this signer issued.

        Raises:
            RcarError: a TokenVerifierError: not ours, or expired.
        """
        refused = RcarError("TokenVerifierError", "Token Verifier error", rule="kbs.token")
        if len(token) > _MAX_TOKEN:
            raise refused
        try:
            decoded = jwt.decode(token, ECKey.import_key(self._key.public_key()), algorithms=["ES256"])
            return _read(decoded.claims, int(at.timestamp()))
        except (JoseError, WireError, TypeError, ValueError, RecursionError):
            raise refused from None


def _read(claims: Mapping[str, object], at: int) -> TokenClaims:
    members = Members(dict(claims), "token")
    if members.integer("exp", 0, 2**53 - 1) <= at:
        raise WireError("token.exp", "is past")
    evidence = members.members("submods").members("cpu0").members("ear.veraison.annotated-evidence")
    runtime = evidence.members("runtime_data_claims")
    tee = EcJwk.parse(
        runtime.value("tee-pubkey"), runtime.at("tee-pubkey"), curves=("P-521", "P-256"), alg=TEE_KEY_ALG
    )
    snp = evidence.members("snp")
    return TokenClaims(tee, snp.hex("measurement", size=48), snp.boolean("simulated_platform"))


def _appraisal(
    report: Report, tee: EcJwk, nonce: str, *, allowed: bool, simulated: bool
) -> dict[str, object]:
    # As Trustee's default policy appraises. That the hardware is genuine, and new enough, the verifier has seen to
    # before there is anything to appraise.
    open_to_host = report.debug or report.migrate_ma
    vector = {
        "instance-identity": 0,
        "configuration": _UNKNOWN_CONFIGURATION if open_to_host else _NO_KNOWN_WEAKNESS,
        "executables": _APPROVED_EXECUTABLES if allowed else _UNRECOGNISED_EXECUTABLES,
        "file-system": 0,
        "hardware": _GENUINE_HARDWARE,
        "runtime-opaque": 0,
        "storage-opaque": 0,
        "sourced-data": 0,
    }
    return {
        "ear.status": _status(max(vector.values())),
        "ear.trustworthiness-vector": vector,
        "ear.appraisal-policy-id": "default",
        "ear.veraison.annotated-evidence": {
            "init_data": report.host_data.hex(),
            "init_data_claims": None,
            "report_data": report.report_data.hex(),
            "runtime_data_claims": {
                "additional-evidence": "",
                "nonce": nonce,
                "tee-pubkey": tee_pubkey(tee),
            },
            "snp": _snp_claims(report, simulated=simulated),
        },
        "ear.trustee.identifiers": {"validated": {}},
    }


def _status(worst: int) -> str:
    """The tier of the worst claim (AR4SI section 2.3.2)."""
    for most, tier in ((1, "none"), (31, AFFIRMING), (95, "warning")):
        if worst <= most:
            return tier
    return "contraindicated"


def _snp_claims(report: Report, *, simulated: bool) -> dict[str, object]:
    """Trustee's claims about a report, and one of our own: whether it is simulated."""
    product = Product.from_cpuid(report.cpuid[0], report.cpuid[1])
    # A version 2 report does not tell its product; Milan's and Genoa's layouts are one.
    tcb = tcb_components(report.reported_tcb, product or Product.MILAN)
    abi_major, abi_minor = guest_policy_abi(report.policy)
    policy = bits(report.policy, GUEST_POLICY_BITS)
    platform = bits(report.platform_info, PLATFORM_INFO_BITS)
    return {
        "policy_abi_major": abi_major,
        "policy_abi_minor": abi_minor,
        "policy_smt_allowed": policy["smt"],
        "policy_migrate_ma": policy["migration"],
        "policy_debug_allowed": policy["debug"],
        "policy_single_socket": policy["single-socket"],
        **{f"reported_tcb_{name}": tcb[name] for name in ("bootloader", "tee", "snp", "microcode")},
        "platform_tsme_enabled": platform["tsme"],
        "platform_smt_enabled": platform["smt"],
        "measurement": report.measurement.hex(),
        "chip_id": report.chip_id.hex(),
        "simulated_platform": simulated,
    }
