"""G: the guest in the certified VM turns its rights over the TPM against whoever believes in the certificates.

The SVSM never looks at persistent handles for evidence: it makes it from recorded publics, which it has regenerated
and compared at every boot. `HandleBoot` does what other vendors did: it takes what the handles hold for the TPM's keys
(openvmm, CVE-2025-49707).
"""

import hashlib
import os
from dataclasses import replace

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from tpm2_pytss import (
    TPM2B_DIGEST,
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_ID_OBJECT,
    TPM2B_PUBLIC,
    TPML_DIGEST,
    TPMT_PUBLIC,
    TPMT_SIG_SCHEME,
    TPMT_TK_HASHCHECK,
)
from tpm2_pytss.constants import TPM2_ALG, TPM2_CC, TPM2_RH, TPM2_ST, TPMA_OBJECT

from vtpm import client
from vtpm.client import HttpTransport
from vtpm.host import Behaviour, HostConfig, Release
from vtpm.lab.attacks.forging import Forger
from vtpm.lab.attacks.model import Attack
from vtpm.lab.attacks.naive import LabBoot
from vtpm.lab.attacks.possession import NothingGained, attackers_tpm, certified, own_tpm
from vtpm.lab.attacks.scene import Scene
from vtpm.svsm.boot import Launched
from vtpm.svsm.build import Build
from vtpm.svsm.device import SvsmDevice
from vtpm.svsm.kbs_session import KbsSession, negotiate
from vtpm.svsm.records import parse_keys
from vtpm.tpm import GuestGateway, Swtpm, TpmKeys, verify_loaded
from vtpm.tpm.esapi import ESAPI, ESYS_TR, policy_session
from vtpm.volume import Volume, read_tpm
from vtpm.wire.aproxy import AttestationRequest, AttestationResponse
from vtpm.wire.enrollment import Certify, Challenge, Evidence
from vtpm.wire.jwe import parse_protected
from vtpm.wire.runtime_data import KbsStatement, certify_qualifier, report_data
from vtpm.wire.templates import Role, devid_branches, template

_IAK = template(Role.IAK, "H-3")
_IDEVID = template(Role.IDEVID, "H-3")
_EK = template(Role.EK, "L-2")
_GUEST_VMPL = 2
_FREE = TPMA_OBJECT.RESTRICTED | TPMA_OBJECT.ADMINWITHPOLICY


class HandleBoot(LabBoot):
    """Believes what the IAK's persistent handle holds; with `tpm.identity` it compares that with what the TPM makes."""

    def _power_on(self, tpm: Swtpm, volume: Volume) -> TpmKeys:
        record = read_tpm(volume)
        if record is None:
            return super()._power_on(tpm, volume)
        tpm.start()
        tpm.power_on(record.state)
        with tpm.esapi("reading a handle") as esapi:
            public, *_ = esapi.read_public(esapi.tr_from_tpmpublic(_IAK.persistent))
        recorded = parse_keys(record.keys)
        held = replace(recorded, iak=replace(recorded.iak, public=bytes(public.publicArea.marshal())))
        if "tpm.identity" not in self._off:
            verify_loaded(tpm, held)
        return held

    def _device(self, session: KbsSession, volume: Volume, tpm: Swtpm, keys: TpmKeys) -> SvsmDevice:
        return _HandleDevice(session, volume, tpm, keys, self._processor)


class _HandleDevice(SvsmDevice):
    """Proves with the keys at the persistent handles."""

    def certify(self, evidence: Evidence) -> Certify:
        """TPM2_Certify of the IDevID by what the IAK's handle holds."""
        with (
            self._tpm.esapi("certifying with handles") as esapi,
            policy_session(esapi, _IDEVID.name_alg) as session,
        ):
            esapi.policy_secret(ESYS_TR.ENDORSEMENT, session)
            esapi.policy_command_code(session, TPM2_CC.Certify)
            esapi.policy_or(session, TPML_DIGEST(list(devid_branches(Role.IDEVID, _IDEVID.name_alg))))
            attest, signature = esapi.certify(
                esapi.tr_from_tpmpublic(_IDEVID.persistent),
                esapi.tr_from_tpmpublic(_IAK.persistent),
                certify_qualifier(evidence.runtime_data),
                TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL),
                session1=session,
            )
            return Certify(bytes(attest), bytes(signature.marshal()))

    def activate(self, index: int, challenge: Challenge) -> bytes:  # noqa: ARG002 - there is one EK
        """TPM2_ActivateCredential with what the handles hold."""
        blob, _ = TPM2B_ID_OBJECT.unmarshal(challenge.credential_blob)
        secret, _ = TPM2B_ENCRYPTED_SECRET.unmarshal(challenge.secret)
        with (
            self._tpm.esapi("activating with handles") as esapi,
            policy_session(esapi, _EK.name_alg) as session,
        ):
            esapi.policy_secret(ESYS_TR.ENDORSEMENT, session)
            iak, ek = (esapi.tr_from_tpmpublic(one.persistent) for one in (_IAK, _EK))
            return bytes(esapi.activate_credential(iak, ek, blob, secret, session2=session))


def replace_iak(tpm: ESAPI) -> bytes:
    """As the guest: put a key that signs anything at the IAK's persistent handle; returns its TPMT_PUBLIC."""
    area, _ = TPMT_PUBLIC.unmarshal(_IAK.public)
    area.objectAttributes = (area.objectAttributes & ~_FREE) | TPMA_OBJECT.USERWITHAUTH
    handle, public, *_ = tpm.create_primary(None, TPM2B_PUBLIC(area), ESYS_TR.ENDORSEMENT)
    tpm.evict_control(ESYS_TR.OWNER, tpm.tr_from_tpmpublic(_IAK.persistent), _IAK.persistent)
    tpm.evict_control(ESYS_TR.OWNER, handle, _IAK.persistent).close(tpm)
    tpm.flush_context(handle)
    return bytes(public.publicArea.marshal())


def _forge_quote(tpm: ESAPI, iak: ec.EllipticCurvePublicKey) -> None:
    """As the guest: sign what looks like a quote and was made by no TPM; raises if it does not verify."""
    forged = hashlib.sha384(b"\xff\x54\x43\x47\x80\x18" + os.urandom(64)).digest()
    ticket = TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL)
    handle = tpm.tr_from_tpmpublic(_IAK.persistent)
    made = tpm.sign(handle, TPM2B_DIGEST(forged), TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL), ticket)
    pair = (made.signature.ecdsa.signatureR, made.signature.ecdsa.signatureS)
    r, s = (int.from_bytes(bytes(part.buffer), "big") for part in pair)
    try:
        iak.verify(encode_dss_signature(r, s), forged, ec.ECDSA(Prehashed(hashes.SHA384())))
    except InvalidSignature:
        raise NothingGained("the forged quote does not verify") from None


def guest_tpm(launched: Launched) -> GuestGateway:
    """The TPM as the guest sees it."""
    return GuestGateway(launched.tpm, after_command=launched.persist)


def _g1(scene: Scene) -> str:
    disk, host = scene.disk(), Behaviour(scene.host_config())
    with scene.running(disk, host) as launched, guest_tpm(launched) as gateway, ESAPI(gateway.tcti) as guest:
        public = replace_iak(guest)
    with (
        scene.running(disk, host, boot=HandleBoot) as launched,
        guest_tpm(launched) as gateway,
        ESAPI(gateway.tcti) as guest,
    ):
        certificate = certified(scene.ca, public, "IAK of the guest's making")
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise NothingGained("the certificate is for another kind of key")
        _forge_quote(guest, key)
    return f"IAK certificate {certificate.serial_number:x}, whose key signs whatever the guest likes, forged quotes too"


class _Accomplice(Behaviour):
    """An honest host but for one thing: it passes the grant, which is public, on to the guest."""

    def __init__(self, config: HostConfig) -> None:
        super().__init__(config)
        self.grant = ""

    def delivery(self, request: AttestationRequest, release: Release) -> AttestationResponse:
        """Read the grant out of the header that passes."""
        self.grant = parse_protected(release.sealed.protected.encode("ascii")).grant or ""
        return super().delivery(request, release)


def _g2(scene: Scene) -> str:
    host, processor = _Accomplice(scene.host_config()), scene.lab.launch()
    with scene.booting(host) as channel:
        session = negotiate(channel.attest, processor.report, processor.cert_table, Build.STANDARD)
    with own_tpm() as (tpm, keys):
        forger = Forger(
            tpm,
            keys,
            KbsStatement(scene.kbs.public_jwk(), host.grant),
            session.key_id,
            report=lambda runtime_data: processor.report(report_data(runtime_data), _GUEST_VMPL),
            table=processor.cert_table(),
        )
        client.enroll(HttpTransport(scene.ca.url), forger, known=False)
        return attackers_tpm(scene.ca, tpm, keys)


ATTACKS = (
    Attack(
        "g1",
        "guest",
        "puts a key that signs anything at the IAK's persistent handle, and waits for an SVSM that certifies what it "
        "finds there",
        ("tpm.identity", "tpm.iak-template", "tpm.iak-attributes"),
        _g1,
    ),
    Attack(
        "g2",
        "guest, with its host,",
        "has the processor sign evidence for a TPM of its own at the guest's privilege level, in the same VM",
        ("snp.vmpl", "launch.measurement"),
        _g2,
    ),
)
