"""A guest that enrols by AMD's attestation protocol of the SVSM, and policies that admit such evidence."""

from collections.abc import Iterable
from dataclasses import replace

import enrollment_world as w

from vtpm.snp import LaunchContext
from vtpm.wire.amd_evidence import SERVICES_PROFILE, VTPM_PROFILE, AmdBody, ServicesManifest
from vtpm.wire.enrollment import EnrollmentRequest, Evidence
from vtpm.wire.jwk import EcJwk
from vtpm.wire.runtime_data import KbsStatement

PROFILES = (SERVICES_PROFILE, VTPM_PROFILE)
DAYS = 3
_TODAY = ("verifies-grants", "reports-state")
ALL_CAPABILITIES = (*_TODAY, "oracle-free")


def _listed(words: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"


def policy(
    world,
    *,
    capabilities: Iterable[str] = ALL_CAPABILITIES,
    profiles: Iterable[str] = PROFILES,
    volatile: bool = False,
    days: int = DAYS,
    extra: str = "",
) -> str:
    """The world's policy for a launch with these capabilities, admitting these profiles and stores for some days."""
    table = f"[ephemeral]\ndays = {days}\nvolatile_stores = {str(volatile).lower()}\n"
    if profiles:
        table += f"profiles = {_listed(profiles)}\n"
    if not profiles and not volatile:
        table = ""
    text = world.policy(extra=table + extra)
    return text.replace(f"capabilities = {_listed(_TODAY)}", f"capabilities = {_listed(capabilities)}")


class Guest:
    """A guest that enrols with what its SVSM attests to; each part can be another's."""

    def __init__(self, world, enroller, tpm, boot=None) -> None:
        self.world, self.enroller, self.tpm, self.boot = world, enroller, tpm, boot or w.Boot()
        self.aud = world.authority.ca_id

    def manifest(self, profile: str) -> bytes:
        if profile == VTPM_PROFILE:
            return self.tpm.ek.public
        key = self.boot.kbs or self.world.kbs
        kbs = KbsStatement(EcJwk.from_key(key.public_key()), self.world.grant(self.boot))
        return ServicesManifest(self.tpm.ek.public, kbs).pack()

    def body(self, profile: str, nonce: str | None = None, **changes) -> AmdBody:
        body = AmdBody(
            self.aud,
            self.enroller.new_nonce().nonce if nonce is None else nonce,
            self.manifest(profile),
            self.tpm.statement(),
        )
        return replace(body, **changes)

    def request(
        self, profile: str, body: AmdBody | None = None, *, data: bytes | None = None, vmpl: int = 0
    ) -> EnrollmentRequest:
        body = body or self.body(profile)
        launch: LaunchContext = self.world.launch
        report = launch.report(body.report_data() if data is None else data, vmpl)
        evidence = Evidence(profile, b"", report, launch.cert_table(), amd=body)
        return EnrollmentRequest(evidence, self.tpm.certify(body.certify_qualifier()))

    def issue(self, profile: str) -> bytes:
        """Enrol from nonce to certificates; the answer."""
        return self.finish(self.request(profile))

    def finish(self, request: EnrollmentRequest) -> bytes:
        """The same with a request that is there already."""
        reply = self.enroller.enroll(w.encode(request))
        return reply.body if reply.status == 200 else self.enroller.activate(*w.answer(self.tpm, reply.body))
