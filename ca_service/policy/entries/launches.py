"""Launches and platforms of a policy as immutable values, and the index by which a report finds its entries."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ca_service.policy.document.bits import BitDemand
from ca_service.policy.entries.floors import Floor
from vtpm.wire.report import Product, Report

MAX_SAME_MEASUREMENT: Final = 8
"""Entries that may name one measurement: a decision looks at all of them, so its cost is bounded."""


@dataclass(frozen=True)
class PlatformEntry:
    """What is demanded of processor and firmware; a member that is None is not stated.

    Attributes:
        name: as launches refer to it.
        keys: kinds of signing key that are good enough: "VCEK", "VLEK".
        report_versions: versions of the report that are.
        info: what is demanded of PLATFORM_INFO.
        launch_mitigations: bits that must be set in LAUNCH_MIT_VECTOR.
        current_mitigations: bits that must be set in CURRENT_MIT_VECTOR.
        chips_allowed: the only CHIP_IDs, 64 bytes each.
        chips_denied: CHIP_IDs that may not.
        provisional_firmware: whether firmware may run that is not committed yet, so that it can still be rolled back.
        crl_max_age_days: how long ago the newest CRL of the ARK may have been issued.
        floors: least levels by product, in their order.
        unconstrained: names of the constraints that the document gives up in so many words.
    """

    name: str
    keys: frozenset[str] | None
    report_versions: frozenset[int] | None
    info: BitDemand | None
    launch_mitigations: int | None
    current_mitigations: int | None
    chips_allowed: frozenset[bytes] | None = field(repr=False)
    chips_denied: frozenset[bytes] | None = field(repr=False)
    provisional_firmware: bool | None
    crl_max_age_days: int | None
    floors: Mapping[Product, tuple[Floor, ...]] = field(repr=False)
    unconstrained: frozenset[str]
    label: str = ""


@dataclass(frozen=True)
class LaunchEntry:
    """An SVSM build, or the builds that a key has signed; a member that is None is not stated.

    Attributes:
        name: unique among the launches.
        measurement: launch digest, 48 bytes.
        id_keys: SHA-384 digests of ID keys, 48 bytes each.
        author_keys: SHA-384 digests of author keys, 48 bytes each.
        host_data: values of HOST_DATA, 32 bytes each.
        family_ids: values of FAMILY_ID, 16 bytes each.
        image_ids: values of IMAGE_ID, 16 bytes each.
        min_guest_svn: least GUEST_SVN.
        min_abi: least ABI_MAJOR and ABI_MINOR of the guest policy.
        guest_policy: what is demanded of the guest policy's other bits.
        capabilities: what the build was reviewed for.
        products: names of the AMD products on which it may run.
        platform: what is demanded of processor and firmware.
        unconstrained: names of the constraints that the document gives up in so many words.
    """

    name: str
    measurement: bytes | None
    id_keys: frozenset[bytes] | None
    author_keys: frozenset[bytes] | None
    host_data: frozenset[bytes] | None = field(repr=False)
    family_ids: frozenset[bytes] | None
    image_ids: frozenset[bytes] | None
    min_guest_svn: int | None
    min_abi: tuple[int, int] | None
    guest_policy: BitDemand | None
    capabilities: frozenset[str]
    products: frozenset[str]
    platform: PlatformEntry | None
    unconstrained: frozenset[str]
    label: str = ""


@dataclass(frozen=True)
class LaunchIndex:
    """The launches of a policy, found by what a report says of itself.

    Attributes:
        by_measurement: entries that name a measurement, in their order: at most `MAX_SAME_MEASUREMENT` under one, each
            with a platform of its own.
        by_id_key: entries that name none, under each of their ID keys.
        by_author_key: entries that name neither, under each of their author keys.
    """

    by_measurement: Mapping[bytes, tuple[LaunchEntry, ...]]
    by_id_key: Mapping[bytes, LaunchEntry]
    by_author_key: Mapping[bytes, LaunchEntry]

    def candidates(self, report: Report) -> tuple[LaunchEntry, ...]:
        """The entries that a report may fall under, the most particular first: two more than `MAX_SAME_MEASUREMENT`.

        An author key counts only if the report says that it has one: else the digest means nothing.
        """
        author = self.by_author_key.get(report.author_key_digest) if report.author_key_en else None
        signed = (self.by_id_key.get(report.id_key_digest), author)
        measured = self.by_measurement.get(report.measurement, ())
        return (*measured, *(entry for entry in signed if entry is not None))

    def entries(self) -> list[LaunchEntry]:
        """All launches, by name."""
        measured = (entry for entries in self.by_measurement.values() for entry in entries)
        signed = (*self.by_id_key.values(), *self.by_author_key.values())
        named = {entry.name: entry for entry in (*measured, *signed)}
        return [named[name] for name in sorted(named)]
