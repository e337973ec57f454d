"""What a policy admits for an ephemeral certificate, and what such a certificate can be asked for at all.

Evidence that says nothing of a persistent store, or says that there is none, never earns more than an ephemeral
certificate. Whether it earns even that is the policy's to say, in so many words; by default it does not.
"""

from dataclasses import dataclass
from typing import Final

from ca_service.policy.document.tables import MAX_EPHEMERAL_DAYS, EphemeralTable
from ca_service.policy.reading.reader import Reader
from vtpm.wire.runtime_data import PROFILE

PERSISTENT_PROFILE: Final = PROFILE
"""The evidence profile that states the TPM's store; the only one that can earn a persistent certificate."""


@dataclass(frozen=True)
class EphemeralTerms:
    """What is admitted for an ephemeral certificate, and for how long that holds.

    Attributes:
        days: life of the certificates, 1 to 7.
        profiles: evidence profiles besides `PERSISTENT_PROFILE` that are admitted.
        volatile_stores: whether TPMs are admitted whose state dies with their boot.
    """

    days: int = MAX_EPHEMERAL_DAYS
    profiles: frozenset[str] = frozenset()
    volatile_stores: bool = False


class EphemeralReader(Reader):
    """Reads `[ephemeral]`."""

    def read(self, table: EphemeralTable | None) -> EphemeralTerms:
        """The terms; without a table nothing is admitted.

        Raises:
            BadRequest: a profile stands twice.
        """
        if table is None:
            return EphemeralTerms()
        profiles = self.unique(table.profiles or (), "ephemeral", "profiles")
        return EphemeralTerms(table.days, profiles, table.volatile_stores)
