"""The contracts of five consumers, each demand a rule.

All are read off the consumers' code: keylime 7.14.3 and its agent, SPIRE, step-ca, go-attestation and HIRS. Each rule
says which function it follows; the modules say where these stand. What a program merely warns of is a rule too.
"""

from typing import Final

from ca_service.profiles.contract import ConsumerReport, ContractRule, report
from ca_service.profiles.contracts.go_attestation import GO_ATTESTATION
from ca_service.profiles.contracts.hirs import HIRS
from ca_service.profiles.contracts.keylime import KEYLIME
from ca_service.profiles.contracts.spire import SPIRE
from ca_service.profiles.contracts.step_ca import STEP_CA
from ca_service.profiles.model import Draft, Profile

CONTRACTS: Final[tuple[ContractRule, ...]] = (*KEYLIME, *SPIRE, *STEP_CA, *GO_ATTESTATION, *HIRS)
"""All demands of all consumers."""


def contract_report(
    certificate: Draft | bytes, *, profile: Profile | None = None
) -> tuple[ConsumerReport, ...]:
    """Who can use a certificate.

    Args:
        certificate: a draft, or the DER of an EK, IAK or IDevID certificate of this CA.
        profile: the profile of a DER; found out if None.

    Returns:
        One report for each consumer that takes certificates of the profile, in the order of `CONTRACTS`.

    Raises:
        BadRequest: the certificate cannot be read, or is of no device profile.
    """
    return report(certificate, CONTRACTS, profile=profile)
