"""The measured image of the simulated SVSM: which bytes the launch measurement covers.

A real SVSM is measured as the pages of its IGVM file. Here the image is the source text of the packages that run
as the SVSM, and one configuration page that names the build; change a line of them, and the measurement changes.
"""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import vtpm
from vtpm.snp.measurement import launch_digest
from vtpm.wire.encoding import canonical

PAGE = 4096
_IMAGE_GPA = 0x1000_0000
_MEASURED = (
    "*.py",
    *(f"{package}/**/*.py" for package in ("wire", "client", "snp", "volume", "tpm", "svsm")),
)
"""All that the SVSM's process loads of this project: the packages it imports, and the modules above them."""


class Build(StrEnum):
    """Which SVSM this is.

    `STANDARD` verifies grants and hashes its own transcript. `APROXY_HEAD` does what libaproxy 0.1.0 asks of an
    SVSM today: the host names the recipe of the pre-boot hash, and a copy of the ephemeral key beside the header
    is believed. It exists to show the attacks that this allows, under a measurement of its own.
    """

    STANDARD = "standard"
    APROXY_HEAD = "aproxy-head"


def _sources() -> Iterator[tuple[str, bytes]]:
    """Name and content of every measured source file, in a fixed order."""
    root = Path(vtpm.__file__).parent
    for pattern in _MEASURED:
        for path in sorted(root.glob(pattern)):
            yield f"vtpm/{path.relative_to(root).as_posix()}", path.read_bytes()


def pages(build: Build) -> list[tuple[int, bytes]]:
    """Guest physical address and content of each 4,096-byte page of the image, in launch order."""
    image = [canonical({"svsm": "vtpm-ca simulated SVSM", "build": build.value})]
    for name, content in _sources():
        image += [canonical({"file": name, "size": len(content)}), content]
    blob = b"".join(part + bytes(-len(part) % PAGE) for part in image)
    return [(_IMAGE_GPA + offset, blob[offset : offset + PAGE]) for offset in range(0, len(blob), PAGE)]


def measurement(build: Build = Build.STANDARD) -> bytes:
    """The 48-byte launch digest of a build."""
    return launch_digest(pages(build))
