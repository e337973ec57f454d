"""A guest as the enrolment client's device: evidence by its SVSM, proofs by its TPM.

The SVSM vouches for one EK and for nothing else: not for the state of the TPM, not for a key broker (unless its
services manifest names one). So a CA gives such evidence an ephemeral certificate at most.
"""

import secrets
import time
from collections.abc import Callable

from vtpm.client import amd_evidence, nonce64
from vtpm.errors import VtpmError
from vtpm.guest.errors import GuestError
from vtpm.guest.tsm import ALL_SERVICES, Attestation, Tsm, attest
from vtpm.tpm import Bench, TpmKeys, activate_on, certify_on, derive, properties
from vtpm.wire.amd_evidence import SERVICES_PROFILE, VTPM_PROFILE, ServicesManifest, parse_vtpm_manifest
from vtpm.wire.enrollment import Certify, Challenge, Evidence, NonceReply
from vtpm.wire.errors import WireError
from vtpm.wire.services import VTPM_SERVICE
from vtpm.wire.statements import TpmStatement
from vtpm.wire.templates import Role, Template, differences, template, templates

_SERVICES = {VTPM_PROFILE: VTPM_SERVICE, SERVICES_PROFILE: ALL_SERVICES}


class GuestDevice:
    """This VM as the enrolment client sees it.

    IAK and IDevID are made from their templates at once, so that a TPM which makes none costs no nonce and no report.

    Args:
        tpm: the VM's TPM.
        tsm: the kernel's way to the SVSM.
        profile: evidence profile, one of `vtpm.wire.amd_evidence.AMD_PROFILES`.
        identity: id of the template of IAK and IDevID.
        entropy: random bytes by number, for the name of the entry.
        pause: waits so many seconds.

    Raises:
        VtpmError: there is no such profile or template.
        TpmError: the TPM refused, or has gone.
    """

    def __init__(
        self,
        tpm: Bench,
        tsm: Tsm,
        profile: str,
        *,
        identity: str = "H-3",
        entropy: Callable[[int], bytes] = secrets.token_bytes,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        if profile not in _SERVICES:
            raise VtpmError(f"there is no profile {profile!r} of AMD's protocol")
        self._tpm = tpm
        self._tsm = tsm
        self._profile = profile
        self._entropy = entropy
        self._pause = pause
        self._facts = properties(tpm)
        self._iak = derive(tpm, _identity(Role.IAK, identity))
        self._idevid = derive(tpm, _identity(Role.IDEVID, identity))
        self._keys: TpmKeys | None = None
        self._attestation: Attestation | None = None

    @property
    def keys(self) -> TpmKeys:
        """The keys that the evidence named.

        Raises:
            GuestError: there was no evidence yet.
        """
        if self._keys is None:
            raise GuestError("the SVSM has not been asked for the EK yet")
        return self._keys

    @property
    def certificates_problem(self) -> str:
        """Why the host's certificate table was left out of the evidence; empty if it was not."""
        return "" if self._attestation is None else self._attestation.certificates_problem

    def evidence(self, aud: str, nonce: str) -> Evidence:
        """What the SVSM says of the vTPM, and what the TPM says of itself.

        Raises:
            GuestError: the SVSM does not attest, its EK is of no known template (rule ``guest.ek-template``), or this
                TPM makes another one (``profile.ek-in-manifest``).
            VtpmError: nonce, manifest or report cannot be read, or the report is over something else; see
                `vtpm.client.amd_evidence`.
            TpmError: the TPM refused, or has gone.
        """
        try:
            question = nonce64(aud, nonce)
        except WireError as error:
            raise VtpmError(f"the CA's nonce cannot be used: {error}") from error
        entry = f"vtpm-enroll-{self._entropy(16).hex()}"
        attestation = attest(self._tsm, question, _SERVICES[self._profile], entry=entry, pause=self._pause)
        self._attestation = attestation
        attested = attested_ek(self._profile, attestation.manifest)
        ek = derive(self._tpm, _ek_template(attested))
        if ek.public != attested:
            raise GuestError(
                f"this TPM makes another EK from the template {ek.template} than the SVSM attests to",
                rule="profile.ek-in-manifest",
                remedy="Name the SVSM's vTPM with --tcti; a VM may have other TPMs. If it is the right one, its "
                "endorsement seed was changed (TPM2_ChangeEPS) after the SVSM had made the EK: restart the VM.",
            )
        self._keys = TpmKeys((ek,), self._iak, self._idevid)
        return amd_evidence(
            self._profile,
            NonceReply(nonce, aud, expires=""),
            self._statement(self._keys),
            manifest=attestation.manifest,
            report=attestation.report,
            certificates=attestation.certificates,
        )

    def _statement(self, keys: TpmKeys) -> TpmStatement:
        facts = self._facts
        return TpmStatement(
            eks=keys.eks,
            iak=keys.iak,
            idevid=keys.idevid,
            manufacturer=facts.manufacturer,
            vendor=facts.vendor,
            firmware=facts.firmware,
            spec=facts.spec,
            # A guest finds a TPM that is there already, and cannot know since when.
            origin="loaded",
        )

    def certify(self, evidence: Evidence) -> Certify:
        """TPM2_Certify of the IDevID by the IAK over exactly this evidence.

        Raises:
            TpmError: the TPM makes other keys now, refused, or has gone.
        """
        if evidence.amd is None:
            raise GuestError("the evidence is of another profile than this guest makes")
        return Certify(*certify_on(self._tpm, self.keys, evidence.amd.certify_qualifier()))

    def activate(self, index: int, challenge: Challenge) -> bytes:
        """TPM2_ActivateCredential with EK number `index`.

        Raises:
            TpmError: the challenge is malformed or not for these keys, the TPM refused, or has gone.
        """
        return activate_on(self._tpm, self.keys, index, challenge.credential_blob, challenge.secret)


def _identity(role: Role, template_id: str) -> Template:
    try:
        return template(role, template_id)
    except WireError as error:
        raise VtpmError(str(error)) from error


def attested_ek(profile: str, manifest: bytes) -> bytes:
    """The TPMT_PUBLIC of the EK in the manifest of a profile.

    Raises:
        GuestError: the manifest is malformed or has no vTPM (rule ``guest.manifest``).
    """
    try:
        if profile == SERVICES_PROFILE:
            return ServicesManifest.parse(manifest, "manifest").ek
        return parse_vtpm_manifest(manifest, "manifest")
    except WireError as error:
        raise GuestError(f"the SVSM's manifest cannot be read: {error}", rule="guest.manifest") from error


def _ek_template(public: bytes) -> Template:
    """The template of which an attested EK is an instance; the manifest does not name it."""
    for known in templates(Role.EK):
        if not differences(public, known):
            return known
    raise GuestError(
        "the EK that the SVSM attests to is of none of the TCG's templates",
        rule="guest.ek-template",
        remedy="Known are " + ", ".join(known.id for known in templates(Role.EK)) + ".",
    )
