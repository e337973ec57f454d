"""Names of the bits in a report's guest policy and PLATFORM_INFO. Source: AMD 56860, the tables of both fields."""

from collections.abc import Mapping
from typing import Final

GUEST_POLICY_BITS: Final[Mapping[str, int]] = {
    "smt": 16,
    "migration": 18,
    "debug": 19,
    "single-socket": 20,
    "cxl": 21,
    "aes-256-xts": 22,
    "rapl-disabled": 23,
    "ciphertext-hiding": 24,
    "page-swap-disabled": 25,
}
"""Bits of POLICY that the guest's owner chooses; 15:0 are the ABI, 17 is 1, the rest is reserved."""

PLATFORM_INFO_BITS: Final[Mapping[str, int]] = {
    "smt": 0,
    "tsme": 1,
    "ecc": 2,
    "rapl-disabled": 3,
    "ciphertext-hiding": 4,
    "alias-check": 5,
    "tio": 7,
}
"""Bits of PLATFORM_INFO with a published meaning; others are in use as well (6 on Turin)."""


def guest_policy_abi(policy: int) -> tuple[int, int]:
    """ABI_MAJOR and ABI_MINOR: the least firmware ABI that the guest's owner demands."""
    return policy >> 8 & 0xFF, policy & 0xFF


def bits(value: int, names: Mapping[str, int]) -> dict[str, bool]:
    """Which of the named bits are set."""
    return {name: bool(value >> bit & 1) for name, bit in names.items()}
