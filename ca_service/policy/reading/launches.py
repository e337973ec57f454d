"""From `[[launch]]` and `[[platform]]` to entries, their index, and the list of what the document leaves open."""

from collections.abc import Iterable, Mapping, Sequence

from ca_service.policy.document.bits import GUEST_POLICY, PLATFORM_INFO, BitDemand
from ca_service.policy.document.form import Path
from ca_service.policy.document.launch import (
    GuestPolicyTable,
    LaunchTable,
    PlatformInfoTable,
    PlatformTable,
    TcbTable,
)
from ca_service.policy.entries.floors import Floor, lowered
from ca_service.policy.entries.launches import MAX_SAME_MEASUREMENT, LaunchEntry, LaunchIndex, PlatformEntry
from ca_service.policy.reading.questions import OpenQuestions
from vtpm.wire.report import Product

LAUNCH_MEMBERS: Mapping[str, str] = {
    "measurement": "measurement",
    "id-key": "id_keys",
    "author-key": "author_keys",
    "host-data": "host_data",
    "family-id": "family_ids",
    "image-id": "image_ids",
    "guest-svn": "min_guest_svn",
    "abi": "min_abi",
    "guest-policy": "guest_policy",
}
"""Constraint, and the member that states it."""

PLATFORM_MEMBERS: Mapping[str, str] = {
    "signing-key": "keys",
    "report-version": "report_versions",
    "info": "platform_info",
    "launch-mitigations": "mitigations.launch",
    "current-mitigations": "mitigations.current",
    "chip": "chips",
    "provisional-firmware": "provisional_firmware",
    "crl-age": "crl_max_age_days",
}
"""The same of a platform."""

FLOOR_MEMBERS: Mapping[str, str] = {
    "reported-tcb": "reported",
    "committed-tcb": "committed",
    "launch-tcb": "launch",
    "api": "firmware",
    "build": "firmware",
}
"""The same of a floor."""

_CHIP_DIGITS = 128
_WITH_MITIGATIONS = 5
"""The first report version that has mitigation vectors."""

_BUILD = 3
"""Numbers of a firmware version that names a build."""

_PROMISED = frozenset({"rapl-disabled", "ciphertext-hiding"})
"""Bits of the guest policy that PLATFORM_INFO has too, under the same name and in the same sense."""

_BUILD_MISSING = 'must name the build too, such as "1.55.29", or "build" named in unconstrained'


def _digests(texts: list[str] | None) -> list[bytes]:
    return [bytes.fromhex(text) for text in texts or ()]


def _bits(table: GuestPolicyTable | PlatformInfoTable | None, names: Mapping[str, int]) -> BitDemand | None:
    return None if table is None else BitDemand(names, frozenset(table.require), frozenset(table.forbid))


def _says(floor: Floor, constraint: str) -> bool:
    """Whether a floor states one of the constraints of `FLOOR_MEMBERS`."""
    if constraint == "build":
        return floor.firmware is not None and len(floor.firmware) == _BUILD
    return getattr(floor, FLOOR_MEMBERS[constraint]) is not None


class PlatformReader(OpenQuestions):
    """Reads `[[platform]]`."""

    def read(self, tables: list[PlatformTable]) -> dict[str, PlatformEntry]:
        """The entries by name.

        Raises:
            BadRequest: a name or value stands twice, a constraint is stated and given up at once, or floors
                contradict each other.
        """
        self.unique((table.name for table in tables), "platform", member="name")
        return {table.name: self._entry(table, i) for i, table in enumerate(tables)}

    def _entry(self, table: PlatformTable, i: int) -> PlatformEntry:
        path: Path = ("platform", i)
        given_up = self.unique(table.unconstrained, *path, "unconstrained")
        for constraint, member in PLATFORM_MEMBERS.items():
            value: object = table
            for step in member.split("."):
                value = getattr(value, step)
            self.weigh(f"platform.{constraint}", table.unconstrained, path, member, stated=value is not None)
        self._reachable(table, path)
        chips = table.chips
        return PlatformEntry(
            name=table.name,
            keys=None if table.keys is None else self.unique(table.keys, *path, "keys"),
            report_versions=self._versions(table, path),
            info=_bits(table.platform_info, PLATFORM_INFO),
            launch_mitigations=table.mitigations.launch,
            current_mitigations=table.mitigations.current,
            chips_allowed=None if chips is None else self._chips(chips.allow, *path, "chips", "allow"),
            chips_denied=None if chips is None else self._chips(chips.deny, *path, "chips", "deny"),
            provisional_firmware=table.provisional_firmware,
            crl_max_age_days=table.crl_max_age_days,
            floors=self._floors(table, path),
            unconstrained=given_up,
            label=table.label or "",
        )

    def _reachable(self, table: PlatformTable, path: Path) -> None:
        if table.report_versions is None or max(table.report_versions) >= _WITH_MITIGATIONS:
            return
        for member in ("launch", "current"):
            if getattr(table.mitigations, member):
                detail = f"no report can meet this: before version {_WITH_MITIGATIONS} the vector is zero"
                self.object_to(detail, *path, "mitigations", member)

    def _versions(self, table: PlatformTable, path: Path) -> frozenset[int] | None:
        if table.report_versions is None:
            return None
        self.unique((str(version) for version in table.report_versions), *path, "report_versions")
        return frozenset(table.report_versions)

    def _chips(self, chips: list[str] | None, *path: int | str) -> frozenset[bytes] | None:
        # Turin fills 8 of the 64 bytes; the rest is zero.
        return self.values(None if chips is None else [c.ljust(_CHIP_DIGITS, "0") for c in chips], *path)

    def _floors(self, table: PlatformTable, path: Path) -> dict[Product, tuple[Floor, ...]]:
        floors: dict[Product, list[Floor]] = {}
        given_up = table.unconstrained
        for k, row in enumerate(table.tcb):
            at: Path = (*path, "tcb", k)
            floor = _floor(row)
            for constraint, member in FLOOR_MEMBERS.items():
                partly = constraint == "build" and floor.firmware is not None
                self.weigh(
                    f"platform.{constraint}",
                    given_up,
                    at,
                    member,
                    stated=_says(floor, constraint),
                    missing=_BUILD_MISSING if partly else "",
                )
            earlier = floors.setdefault(Product(row.product), [])
            self._in_order(earlier, floor, at)
            earlier.append(floor)
        if not table.tcb:
            for constraint in FLOOR_MEMBERS:
                if constraint not in given_up:
                    self.note(f"platform.{constraint}", (*path, "tcb"))
        return {product: tuple(of_product) for product, of_product in floors.items()}

    def _in_order(self, earlier: list[Floor], floor: Floor, at: Path) -> None:
        if not earlier:
            if floor.since is not None:
                raise self.refuse("the first floor of a product holds from the beginning", *at, "from")
            return
        before = earlier[-1]
        if floor.since is None or (before.since is not None and floor.since <= before.since):
            raise self.refuse(
                "a further floor of a product needs a date after the earlier one's", *at, "from"
            )
        if wrong := lowered(before, floor):
            raise self.refuse(
                f"floors that contradict: {wrong} is below the earlier floor's", *at, wrong.partition(".")[0]
            )


def _floor(row: TcbTable) -> Floor:
    firmware = None if row.firmware is None else tuple(int(part) for part in row.firmware.split("."))
    return Floor(row.since, firmware, row.reported, row.committed, row.launch)


class LaunchReader(OpenQuestions):
    """Reads `[[launch]]`."""

    def read(self, tables: list[LaunchTable], platforms: Mapping[str, PlatformEntry]) -> LaunchIndex:
        """The entries, indexed.

        Raises:
            BadRequest: a name or value stands twice, two entries would be found by the same key or by the same
                measurement on the same platform, too many by one measurement, a platform does not exist or has no
                floor for one of the products, or a constraint is stated and given up at once.
        """
        self.unique((table.name for table in tables), "launch", member="name")
        by_measurement: dict[bytes, tuple[LaunchEntry, ...]] = {}
        by_id_key: dict[bytes, LaunchEntry] = {}
        by_author_key: dict[bytes, LaunchEntry] = {}
        for i, table in enumerate(tables):
            entry = self._entry(table, i, platforms)
            if entry.measurement is not None:
                earlier = by_measurement.get(entry.measurement, ())
                self._beside(earlier, entry, "launch", i, "measurement")
                by_measurement[entry.measurement] = (*earlier, entry)
            elif table.id_keys is not None:
                self._put(by_id_key, _digests(table.id_keys), entry, "launch", i, "id_keys")
            else:
                self._put(by_author_key, _digests(table.author_keys), entry, "launch", i, "author_keys")
        return LaunchIndex(by_measurement, by_id_key, by_author_key)

    def _put(
        self, index: dict[bytes, LaunchEntry], keys: Iterable[bytes], entry: LaunchEntry, *path: int | str
    ) -> None:
        for k, key in enumerate(keys):
            if key in index:
                raise self.refuse(f'finds the entry "{index[key].name}" already', *path, k)
            index[key] = entry

    def _beside(self, earlier: Sequence[LaunchEntry], entry: LaunchEntry, *path: int | str) -> None:
        """Refuse an entry whose measurement other entries have, unless it speaks of another platform than they."""
        for other in earlier:
            if other.platform == entry.platform:
                raise self.refuse(f'finds the entry "{other.name}" already, on the same platform', *path)
        if len(earlier) == MAX_SAME_MEASUREMENT:
            raise self.refuse(f"finds {MAX_SAME_MEASUREMENT} entries already, which is the most", *path)

    def _entry(self, table: LaunchTable, i: int, platforms: Mapping[str, PlatformEntry]) -> LaunchEntry:
        path: Path = ("launch", i)
        given_up = self.unique(table.unconstrained, *path, "unconstrained")
        for constraint, member in LAUNCH_MEMBERS.items():
            stated = getattr(table, member) is not None
            self.weigh(f"launch.{constraint}", table.unconstrained, path, member, stated=stated)
        abi = None if table.min_abi is None else [int(part) for part in table.min_abi.split(".")]
        return LaunchEntry(
            name=table.name,
            measurement=None if table.measurement is None else bytes.fromhex(table.measurement),
            id_keys=self.values(table.id_keys, *path, "id_keys"),
            author_keys=self.values(table.author_keys, *path, "author_keys"),
            host_data=self.values(table.host_data, *path, "host_data"),
            family_ids=self.values(table.family_ids, *path, "family_ids"),
            image_ids=self.values(table.image_ids, *path, "image_ids"),
            min_guest_svn=table.min_guest_svn,
            min_abi=None if abi is None else (abi[0], abi[1]),
            guest_policy=_bits(table.guest_policy, GUEST_POLICY),
            capabilities=self.unique(table.capabilities, *path, "capabilities"),
            products=self.unique(table.products, *path, "products"),
            platform=self._platform(table, platforms, path),
            unconstrained=given_up,
            label=table.label or "",
        )

    def _platform(
        self, table: LaunchTable, platforms: Mapping[str, PlatformEntry], path: Path
    ) -> PlatformEntry | None:
        if table.platform is None:
            self.note("platform.stated", (*path, "platform"), "must name a platform")
            return None
        platform = platforms.get(table.platform)
        if platform is None:
            raise self.refuse("there is no platform of this name", *path, "platform")
        if not platform.unconstrained.issuperset(FLOOR_MEMBERS):
            for k, product in enumerate(table.products):
                if Product(product) not in platform.floors:
                    detail = f'the platform "{platform.name}" has no tcb entry for this product'
                    raise self.refuse(detail, *path, "products", k)
        self._compatible(table, platform, path)
        return platform

    def _compatible(self, table: LaunchTable, platform: PlatformEntry, path: Path) -> None:
        """Firmware launches nothing that asks for what its machine has not; PLATFORM_INFO says what it has."""
        if table.guest_policy is None or platform.info is None:
            return
        for k, bit in enumerate(table.guest_policy.require):
            if bit in _PROMISED and bit in platform.info.forbid:
                detail = f'no machine can meet this: the platform "{platform.name}" forbids it'
                self.object_to(detail, *path, "guest_policy", "require", k)
