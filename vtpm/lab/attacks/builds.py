"""B and K: the wrong SVSM, or a key broker that serves it."""

import os
from contextlib import suppress
from datetime import timedelta

from cryptography.hazmat.primitives.asymmetric import ec

from ca_service.evidence.snp import (
    AUTHENTICITY,
    CONFIGURATION,
    Collateral,
    SnpEvidence,
    amd_roots,
    simulated_roots,
)
from ca_service.judgment import judge_all
from ca_service.policy import UNSAFE_RULES
from vtpm import client
from vtpm.client import HttpTransport
from vtpm.host import Behaviour, BrokerSession, HostConfig, KbsRefused, Release, TrusteeSession
from vtpm.host.malicious import OwnKbs
from vtpm.kbs.release import seal_with_grant
from vtpm.kbs.sessions import Session
from vtpm.lab.attacks.forging import AmdForger, Forger
from vtpm.lab.attacks.mitm import KBS_RULES
from vtpm.lab.attacks.model import Attack, PolicyDecision
from vtpm.lab.attacks.possession import NothingGained, attackers_tpm, opened, own_tpm
from vtpm.lab.attacks.scene import RESOURCE, Scene
from vtpm.snp import LaunchContext
from vtpm.svsm.build import Build
from vtpm.svsm.errors import BootRefused
from vtpm.svsm.kbs_session import negotiate
from vtpm.wire.amd_evidence import VTPM_PROFILE
from vtpm.wire.aproxy import CHALLENGE, AttestationRequest, NegotiationResponse, legacy_report_data
from vtpm.wire.certtable import parse_table
from vtpm.wire.encoding import b64std
from vtpm.wire.grant import key_id
from vtpm.wire.jwe import SealedResource, open_sealed, parse_protected
from vtpm.wire.jwk import EcJwk
from vtpm.wire.report import Report
from vtpm.wire.runtime_data import KbsStatement

_MODIFIED = bytes(range(48))
"""Launch measurement of an SVSM that the attacker has changed: any that nobody has listed."""

_RECIPE = (CHALLENGE,)
"""The pre-boot hash over the host's own bytes and nothing else."""


def _b1(scene: Scene) -> str:
    host, disk = OwnKbs(scene.host_config()), scene.disk()
    with scene.running(disk, host, processor=scene.lab.platform.launch_measured(_MODIFIED)):
        pass
    with opened(disk.path, host.loot) as (tpm, keys):
        return attackers_tpm(scene.ca, tpm, keys)


def _k1(scene: Scene) -> str:
    scene.kbs.allow_measurement(_MODIFIED)
    modified, host = scene.lab.platform.launch_measured(_MODIFIED), Behaviour(scene.host_config())
    with scene.booting(host) as channel:
        loot = negotiate(channel.attest, modified.report, modified.cert_table, Build.STANDARD).secret
    disk = scene.disk()
    scene.boot(disk, host)
    with opened(disk.path, loot) as (tpm, keys):
        return attackers_tpm(scene.ca, tpm, keys)


class _Oracle(Behaviour):
    """Has today's SVSM sign bytes of the host's choice, under the name of a challenge."""

    def __init__(self, config: HostConfig, chosen: bytes) -> None:
        super().__init__(config)
        self._chosen = chosen
        self.request: AttestationRequest | None = None

    def open_session(self) -> BrokerSession:
        """No key broker is asked."""
        return _NoBroker(self, self._chosen)

    def negotiation(self, challenge: bytes) -> NegotiationResponse:
        """The recipe leaves the SVSM's own key out."""
        return NegotiationResponse(challenge, _RECIPE)


class _NoBroker:
    def __init__(self, host: _Oracle, chosen: bytes) -> None:
        self._host = host
        self._chosen = chosen

    def challenge(self) -> bytes:
        return self._chosen

    def release(self, request: AttestationRequest, resource: str) -> Release:
        self._host.request = request
        raise KbsRefused(f"there is no key broker to ask for {resource}")

    def close(self) -> None:
        pass


def _signed(scene: Scene, processor: LaunchContext, chosen: bytes) -> AttestationRequest:
    """A genuine report of today's SVSM, over SHA-512 of bytes that the host chose."""
    host = _Oracle(scene.host_config(), chosen)
    with scene.booting(host) as channel, suppress(BootRefused):
        negotiate(channel.attest, processor.report, processor.cert_table, Build.APROXY_HEAD)
    if host.request is None:
        raise NothingGained("the SVSM signed nothing")
    return host.request


class _LenientBroker:
    """The organisation's key broker without `kbs.report-data`: it takes the report data that the SVSM's recipe gives.

    All else it does as the real one, with the organisation's key.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._nonce = os.urandom(32)

    def challenge(self) -> bytes:
        return self._nonce

    def close(self) -> None:
        pass

    def release(self, request: AttestationRequest, resource: str) -> Release:
        kbs, now = self._scene.kbs, self._scene.clock()
        report, table = Report.parse(request.report), parse_table(request.certs or b"", "certs_buf")
        offered, roots = Collateral.of_table(table), amd_roots() + simulated_roots()
        policy, secret = kbs.policy(), kbs.secret(resource)
        verified = judge_all((*AUTHENTICITY, *CONFIGURATION), SnpEvidence(report, roots, now, offered))
        ours = legacy_report_data(("EcPublicKeyBytes", CHALLENGE), request.key, self._nonce)
        allowed = verified.admitted and report.measurement in policy.measurements
        if not allowed or report.report_data != ours or secret is None:
            raise KbsRefused("not attested")
        session = Session("", b64std(self._nonce), now.replace(microsecond=0) + timedelta(minutes=5))
        sealed = seal_with_grant(
            kbs, secret, session, request.key, report.report_id, policy.digest, now, os.urandom
        )
        return Release("", sealed)


def _persistence_key(scene: Scene) -> tuple[bytes, str, str]:
    """The victim's secret, its grant and its key id, sealed to the attacker: the report names the attacker's key."""
    lenient = "kbs.report-data" in scene.off
    session = _LenientBroker(scene) if lenient else TrusteeSession(scene.kbs_url, {})
    try:
        key, nonce = ec.generate_private_key(ec.SECP521R1()), session.challenge()
        jwk = EcJwk.from_key(key.public_key())
        signed = _signed(scene, scene.lab.launch(Build.APROXY_HEAD), jwk.x + jwk.y + nonce)
        request = AttestationRequest(signed.report, nonce, jwk, signed.certs)
        sealed = session.release(request, RESOURCE).sealed
    finally:
        session.close()
    return _unsealed(sealed, key)


def _unsealed(sealed: SealedResource, key: ec.EllipticCurvePrivateKey) -> tuple[bytes, str, str]:
    aad = sealed.protected.encode("ascii")
    header = parse_protected(aad)
    secret = open_sealed(
        key,
        header.epk,
        aad=aad,
        wrapped_cek=sealed.encrypted_key,
        iv=sealed.iv,
        ciphertext=sealed.ciphertext,
        tag=sealed.tag,
    )
    return secret, header.grant or "", key_id(secret)


def _b2(scene: Scene) -> str:
    processor = scene.lab.launch(Build.APROXY_HEAD)
    with own_tpm() as (tpm, keys):
        forger = AmdForger(
            tpm,
            keys,
            report=lambda chosen: _signed(scene, processor, chosen).report,
            table=processor.cert_table(),
        )
        client.enroll(HttpTransport(scene.ca.url), forger, known=False)
        return f"evidence that names an honest SVSM's launch; and {attackers_tpm(scene.ca, tpm, keys)}"


def _b2_kbs(scene: Scene) -> str:
    secret, grant, name = _persistence_key(scene)
    known = scene.kbs.secret(RESOURCE)
    if known is None or known.value != secret:
        raise NothingGained("the key broker released another key")
    processor = scene.lab.launch(Build.APROXY_HEAD)
    with own_tpm() as (tpm, keys):
        forger = Forger(
            tpm,
            keys,
            KbsStatement(scene.kbs.public_jwk(), grant),
            name,
            report=lambda runtime_data: _signed(scene, processor, runtime_data).report,
            table=processor.cert_table(),
        )
        client.enroll(HttpTransport(scene.ca.url), forger, known=False)
        return f"the victim's persistence key; and {attackers_tpm(scene.ca, tpm, keys)}"


_ADMITS_AMD = f'[ephemeral]\ndays = 1\nprofiles = ["{VTPM_PROFILE}"]\n'

LAUNCH_RULES = ("launch.measurement", "launch.capabilities", "launch.product")
"""What the allow-list says of launches; one that is not on it breaks these, and every other demand of a launch too."""


ATTACKS = (
    Attack(
        "b1",
        "host",
        "boots an SVSM of its own making on a key broker of its own",
        (*LAUNCH_RULES, *KBS_RULES),
        _b1,
        besides=tuple(rule for rule in UNSAFE_RULES["UnsafeAllowAnyMeasurement"] if rule not in LAUNCH_RULES),
    ),
    Attack(
        "b2",
        "host",
        "has today's SVSM, whose pre-boot hash takes any bytes for a challenge, sign evidence of AMD's protocol for a "
        "TPM of its own",
        ("profile.admitted", "launch.capabilities"),
        _b2,
        decision=PolicyDecision(
            {"UnsafeAllowMissingCapabilities": "that nobody but the SVSM chooses what is signed in its name"},
            admits={"profile.admitted": _ADMITS_AMD},
        ),
    ),
    Attack(
        "b2-kbs",
        "host",
        "has today's SVSM sign what the key broker and the CA want to see, the attacker's own key first",
        ("kbs.report-data", "evidence.report-data", "launch.capabilities", "grant.report-id"),
        _b2_kbs,
    ),
    Attack(
        "k1",
        "host, with a careless key broker,",
        "has the persistence key released to a changed SVSM first, and to the genuine one afterwards",
        ("kbs.release-policy",),
        _k1,
        decision=PolicyDecision(
            {"UnsafeAllowAnyReleasePolicy": "that the key broker hands keys to reviewed SVSMs only"}
        ),
    ),
)
