"""A policy document as a large operator has one: many launches, key brokers, chips and values of host data.

Entries are numbered. An enrolment of `enrollment_world` falls under one that stands in the middle of many others of its
kind, so that whoever scans meets half of them.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import enrollment_world as w
from cryptography.hazmat.primitives.asymmetric import ec

from vtpm.lab.allowlist import launch_entry, platform_entry
from vtpm.wire.jwk import EcJwk
from vtpm.wire.report import Report

_AUTHOR_SHARE = 10
"""One in so many launches names neither measurement nor ID key, but an author key."""

_BY_AUTHOR, _BY_ID = 1, 3
"""Numbers of launches that are found so."""

_KEY_FLAGS, _MEASUREMENT, _ID_KEY, _AUTHOR_KEY, _CHIP = 0x048, 0x090, 0x0E0, 0x110, 0x1A0


@dataclass(frozen=True)
class Size:
    """How many entries of each kind a document has.

    Attributes:
        launches: half of them with a measurement, the others found by an ID key or an author key.
        brokers: `[[kbs]]`, one key each.
        patterns: resource patterns of each broker.
        chips: of `chips.allow`.
        host_data: values that the launch of the enrolment may have.
        digests: release policies that each broker may name.
    """

    launches: int
    brokers: int
    patterns: int = 4
    chips: int = 10
    host_data: int = 10
    digests: int = 4


TEN = Size(launches=10, brokers=10)
LARGE = Size(launches=10_000, brokers=1_000, chips=10_000, host_data=1_000, digests=8)


def _value(kind: str, number: int, digits: int) -> str:
    return hashlib.sha512(f"{kind} {number}".encode("ascii")).hexdigest()[:digits]


def _values(kind: str, count: int, digits: int) -> list[str]:
    return [_value(kind, n, digits) for n in range(count)]


def _quoted(values: Iterable[str]) -> str:
    return ", ".join(f'"{value}"' for value in values)


def document(world: w.World, size: Size) -> str:
    """The text of a document under which `world`'s TPMs are admitted."""
    return "\n".join(
        [
            "schema = 1",
            "[grant]\nmax_age_s = 3600",
            '[tpm]\nek = ["L-1"]\niak = ["H-3"]\nidevid = ["H-3"]',
            '[store]\nformats = ["cocoonfs/1"]',
            *_brokers(world, size),
            *_launches(world, size),
            _platform(world, size),
        ]
    )


def _brokers(world: w.World, size: Size) -> list[str]:
    found = []
    for n in range(size.brokers):
        ours = n == size.brokers // 2
        key = world.kbs if ours else ec.derive_private_key(0x1000 + n, ec.SECP256R1())
        members = EcJwk.from_key(key.public_key()).members()
        patterns = [f"tenant-{n}/type-{i}/{'*' if i % 2 else 'vm'}" for i in range(size.patterns - 1)]
        patterns.append("default/vtpm/*" if ours else f"tenant-{n}/vtpm/*")
        digests = ["00" * 32, *_values(f"release {n}", size.digests - 1, 64)]
        found.append(
            f"""
[[kbs]]
id = "kbs-{n}"
status = "trusted"
origins = ["kbs-generated"]
release_policies = [{_quoted(digests)}]
key = [{{ jwk = {{ {", ".join(f'{name} = "{value}"' for name, value in members.items())} }} }}]
resource = [{", ".join(f'{{ pattern = "{pattern}" }}' for pattern in patterns)}]
"""
        )
    return found


def _launches(world: w.World, size: Size) -> list[str]:
    host_data = _report(world).host_data.hex()
    values = [f"host_data = [{_quoted([host_data, *_values('host data', size.host_data - 1, 64)])}]"]
    found = []
    for n in range(size.launches):
        ours = n == size.launches // 4 * 2
        measurement = world.launch.measurement if ours else bytes.fromhex(_value("measurement", n, 96))
        text = launch_entry(f"build-{n}", measurement, ("verifies-grants", "reports-state"))
        if ours:
            text = "\n".join([text.replace('"host-data", ', ""), *values, ""])
        elif n % 2:
            kind = "author" if n % _AUTHOR_SHARE == 1 else "id"
            text = text.replace(
                f'measurement = "{measurement.hex()}"', f'{kind}_keys = ["{_value(kind, n, 96)}"]'
            )
            text = text.replace(f'"{kind}-key", ', "").replace(
                "unconstrained = [", 'unconstrained = ["measurement", '
            )
        found.append(text)
    return found


def _platform(world: w.World, size: Size) -> str:
    chips = [_report(world).chip_id.hex(), *_values("chip", size.chips - 1, 128)]
    stated = f"chips = {{ allow = [{_quoted(chips)}] }}\nunconstrained = ["
    return platform_entry().replace('"chip", ', "").replace("unconstrained = [", stated)


def _report(world: w.World) -> Report:
    return Report.parse(world.launch.report(bytes(64), 0))


def strangers(world: w.World) -> dict[str, Report]:
    """Reports by how a document finds a launch for them: by ID key, by author key, and by nothing at all.

    They differ from `world`'s in the fields that are asked for (AMD 56860, table ATTESTATION_REPORT), and no processor
    has signed them.
    """
    by = {
        "id": {_MEASUREMENT: bytes(48), _ID_KEY: bytes.fromhex(_value("id", _BY_ID, 96))},
        "author": {
            _KEY_FLAGS: b"\x01",
            _MEASUREMENT: bytes(48),
            _AUTHOR_KEY: bytes.fromhex(_value("author", _BY_AUTHOR, 96)),
        },
        "nothing": {_MEASUREMENT: bytes(48), _CHIP: b"\xfe" * 64},
    }
    return {name: _changed(_report(world).raw, fields) for name, fields in by.items()}


def _changed(raw: bytes, fields: Mapping[int, bytes]) -> Report:
    changed = bytearray(raw)
    for offset, value in fields.items():
        changed[offset : offset + len(value)] = value
    return Report.parse(bytes(changed))
