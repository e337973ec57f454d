"""The rules that an evidence profile adds to those of every enrolment, and whether the CA issues on it at all.

The AMD profiles say less than ``svsm-vtpm-ca:1``: nothing of the store, and of the TPM no more than one EK. An SVSM
whose pre-boot hash takes its recipe from the host can be made to sign them for a TPM of the host's own, which is why
they also need a launch that the policy calls ``oracle-free``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ca_service.evidence.profiles.claims import Claims
from ca_service.judgment import Checks, Finding, Timeless, failed, passed
from vtpm.wire.amd_evidence import SERVICES_PROFILE, VTPM_PROFILE
from vtpm.wire.runtime_data import PROFILE
from vtpm.wire.services import KBS_SERVICE
from vtpm.wire.statements import STORE_MODES

PERSISTENT: Final = STORE_MODES[0]

ISSUED_PROFILES: Final = (PROFILE, SERVICES_PROFILE, VTPM_PROFILE)
"""The profiles on which this CA issues certificates; on all but the first, ephemeral ones at most."""

PROFILE_ISSUED: Final = "profile.issued"
"""The rule that refuses profiles on which nothing is issued."""


@dataclass(frozen=True)
class _Issued(Timeless):
    """This CA issues certificates on evidence of this profile."""

    id: str = PROFILE_ISSUED

    def judge(self, subject: Claims) -> Finding:
        if subject.profile not in ISSUED_PROFILES:
            return failed(
                self,
                "profile-not-issued: this CA issues no certificates on evidence of this profile",
                expected=", ".join(ISSUED_PROFILES),
                actual=subject.profile,
            )
        return passed(self, actual=subject.profile)


@dataclass(frozen=True)
class _EkInManifest(Timeless):
    """The EK that names the TPM is the one that the SVSM vouches for."""

    id: str = "profile.ek-in-manifest"

    def judge(self, subject: Claims) -> Finding:
        wanted, found = subject.manifest_ek, subject.tpm.eks[0].public
        if wanted is None or found != wanted:
            return failed(
                self,
                "tpm.ek[0] is not the EK of the manifest",
                expected="none" if wanted is None else wanted.hex(),
                actual=found.hex(),
            )
        return passed(self)


@dataclass(frozen=True)
class _SingleEk(Timeless):
    """No EK is stated besides the manifest's: the profile has a place for one."""

    id: str = "profile.single-ek"

    def judge(self, subject: Claims) -> Finding:
        count = len(subject.tpm.eks)
        if count != 1:
            return failed(self, "this profile takes exactly one EK", expected=1, actual=count)
        return passed(self)


@dataclass(frozen=True)
class _GrantPresent(Timeless):
    """The manifest holds the key broker's grant: without it, the profile says no more than the vTPM's own manifest."""

    id: str = "profile.grant-present"

    def judge(self, subject: Claims) -> Finding:
        if subject.grant is None:
            return failed(
                self,
                f"the manifest has no service {KBS_SERVICE} with the key broker's grant;"
                f" a TPM without one enrols by profile {VTPM_PROFILE}",
                expected=f"a service {KBS_SERVICE}",
                actual="none",
            )
        return passed(self)


_ISSUED = _Issued()
_OF_EVERY_PROFILE: Checks[Claims] = Checks((_ISSUED,))
_CHECKS: Mapping[str, Checks[Claims]] = MappingProxyType(
    {
        PROFILE: _OF_EVERY_PROFILE,
        SERVICES_PROFILE: Checks((_ISSUED, _EkInManifest(), _GrantPresent())),
        VTPM_PROFILE: Checks((_ISSUED, _EkInManifest(), _SingleEk())),
    }
)


def is_ephemeral(claims: Claims) -> bool:
    """Whether evidence earns an ephemeral certificate at most, whatever a policy says.

    It does unless it states a persistent store, which profile ``svsm-vtpm-ca:1`` alone can. Relying parties look at the
    issuer alone, so nothing weaker may come from the issuers of persistent TPMs.
    """
    return claims.profile != PROFILE or claims.store is None or claims.store.mode != PERSISTENT


def profile_checks(profile: str) -> Checks[Claims]:
    """The rules of a profile, `PROFILE_ISSUED` first; a profile that nobody knows has that one, and it refuses."""
    return _CHECKS.get(profile, _OF_EVERY_PROFILE)
