"""The launch digest: what the firmware makes of the pages that a VM starts from.

Source: AMD 56860, SNP_LAUNCH_UPDATE, table PAGE_INFO.
"""

import hashlib
from collections.abc import Iterable
from enum import IntEnum
from typing import Final

PAGE_SIZE: Final = 4096
_DIGEST_SIZE: Final = 48
_INFO_SIZE: Final = 0x70


class PageType(IntEnum):
    """How a page takes part in the launch; the firmware's own numbers."""

    NORMAL = 1
    VMSA = 2
    ZERO = 3
    UNMEASURED = 4
    SECRETS = 5
    CPUID = 6


_WITH_CONTENTS: Final = frozenset({PageType.NORMAL, PageType.VMSA})


class LaunchDigest:
    """The running digest of a launch: 48 bytes that start as zeros and absorb one page after the other."""

    def __init__(self) -> None:
        self._digest = bytes(_DIGEST_SIZE)

    @property
    def value(self) -> bytes:
        """The digest so far, 48 bytes."""
        return self._digest

    def update(self, gpa: int, page: bytes, kind: PageType = PageType.NORMAL) -> None:
        """Absorb a page.

        Args:
            gpa: guest physical address, a multiple of 4,096.
            page: its 4,096 bytes; they count for NORMAL and VMSA pages only.
            kind: what the page is.

        Raises:
            ValueError: another size, or an address that no page has.
        """
        if len(page) != PAGE_SIZE:
            raise ValueError(f"a page must be {PAGE_SIZE} bytes, is {len(page)}")
        if gpa % PAGE_SIZE or not 0 <= gpa < 1 << 64:
            raise ValueError("a page's address must be a multiple of its size within 64 bits")
        contents = hashlib.sha384(page).digest() if kind in _WITH_CONTENTS else bytes(_DIGEST_SIZE)
        info = (
            self._digest
            + contents
            + _INFO_SIZE.to_bytes(2, "little")
            # Page type, no IMI page, no permissions for VMPL 1 to 3, reserved byte.
            + bytes([kind, 0, 0, 0, 0, 0])
            + gpa.to_bytes(8, "little")
        )
        self._digest = hashlib.sha384(info).digest()


def launch_digest(pages: Iterable[tuple[int, bytes]]) -> bytes:
    """The 48-byte MEASUREMENT of a VM that starts from these pages.

    Args:
        pages: guest physical address and 4,096 bytes of each NORMAL page, in launch order; order counts.

    Raises:
        ValueError: a page has another size or an impossible address.
    """
    digest = LaunchDigest()
    for gpa, page in pages:
        digest.update(gpa, page)
    return digest.value
