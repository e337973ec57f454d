"""The release policy: to which SVSM the KBS hands a key.

One TOML file in the KBS's directory, read anew for each decision:

```toml
measurements = ["<96 hex digits>", ...]   # launch measurements of the SVSMs that get keys
simulated = true                          # whether the simulated platform's roots count, besides AMD's
```
"""

import tomllib
from dataclasses import dataclass
from typing import Final, Self

from vtpm.kbs.errors import KbsError
from vtpm.wire.encoding import Members, unhex
from vtpm.wire.errors import WireError
from vtpm.wire.grant import policy_digest

_MEASUREMENT: Final = 48
_MAX_FILE: Final = 64 * 1024
_MAX_MEASUREMENTS: Final = 256


@dataclass(frozen=True)
class ReleasePolicy:
    """Who gets keys.

    Attributes:
        measurements: launch measurements, 48 bytes each; none means that nobody does.
        simulated: whether the simulated platform is taken for a platform.
        digest: SHA-256 of the file in hexadecimal; the grant's claim `policy`.
    """

    measurements: frozenset[bytes]
    simulated: bool
    digest: str

    @classmethod
    def parse(cls, document: bytes) -> Self:
        """Read a policy file's bytes.

        Raises:
            KbsError: not TOML, an unknown, missing or malformed entry. Then nothing is released.
        """
        if len(document) > _MAX_FILE:
            raise KbsError(f"release policy: must be at most {_MAX_FILE} bytes")
        try:
            members = Members(tomllib.loads(document.decode("utf-8")))
            simulated = members.boolean("simulated")
            entries = members.array("measurements", 0, _MAX_MEASUREMENTS)
            members.end()
            measurements = frozenset(_measurement(value, path) for value, path in entries)
        except (WireError, UnicodeError, tomllib.TOMLDecodeError) as error:
            raise KbsError(f"release policy: {error}") from None
        return cls(measurements, simulated, policy_digest(document))


def _measurement(value: object, path: str) -> bytes:
    if not isinstance(value, str):
        raise WireError(path, "must be a string")
    return unhex(value, path, size=_MEASUREMENT)


def write_policy(measurements: frozenset[bytes], *, simulated: bool) -> bytes:
    """The bytes of a policy file."""
    lines = "".join(f'    "{measurement.hex()}",\n' for measurement in sorted(measurements))
    return (
        "# The KBS releases keys to an SVSM with one of these launch measurements (SEV-SNP, 96 hex digits).\n"
        f"measurements = [\n{lines}]\n"
        "# Whether reports of the simulated platform count, besides those that AMD's keys vouch for.\n"
        f"simulated = {'true' if simulated else 'false'}\n"
    ).encode("ascii")


def as_measurement(measurement: bytes | str) -> bytes:
    """A launch measurement given as 48 bytes or 96 hex digits.

    Raises:
        KbsError: neither.
    """
    try:
        raw = unhex(measurement.lower(), "measurement") if isinstance(measurement, str) else measurement
    except WireError as error:
        raise KbsError(str(error)) from None
    if len(raw) != _MEASUREMENT:
        raise KbsError(f"measurement: must be {_MEASUREMENT} bytes, is {len(raw)}")
    return raw
