import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtpm.snp import launch_digest
from vtpm.snp.measurement import LaunchDigest, PageType

# Computed with sev-snp-measure 0.0.13 (module gctx), an independent implementation.
TWO_PAGES = "6704e5ac39a4107d6457ab51e1f6474cbee2db0e493e1e0a41ae3e646874dc4c058b8819a78c4fb6dd47102eb80415a5"
EVERY_KIND = (
    "57f8b46b32ebcf0ec2c9a0bad4a0f66f0cefc62f2a363878cd542a9aadbea83f15bb6c8190a2cfe8123e95b058f8b33d"
)
PAGES = [(0x100000, bytes(range(256)) * 16), (0x101000, bytes(4096))]


def test_normal_pages():
    assert launch_digest(PAGES).hex() == TWO_PAGES


def test_every_kind_of_page():
    digest = LaunchDigest()
    for gpa, page in PAGES:
        digest.update(gpa, page)
    for gpa, kind in enumerate((PageType.ZERO, PageType.UNMEASURED, PageType.SECRETS, PageType.CPUID)):
        digest.update(0x200000 + 4096 * gpa, b"\xaa" * 4096, kind)
    digest.update(0xFFFFFFFFF000, b"\x5a" * 4096, PageType.VMSA)
    assert digest.value.hex() == EVERY_KIND


def test_nothing_launched_is_all_zero():
    assert launch_digest([]) == bytes(48)


def test_order_address_and_content_count():
    same = {
        launch_digest(pages)
        for pages in (
            PAGES,
            PAGES[::-1],
            PAGES[:1],
            [(gpa + 4096, page) for gpa, page in PAGES],
            [(gpa, hashlib.sha256(page).digest() * 128) for gpa, page in PAGES],
        )
    }
    assert len(same) == 5


@pytest.mark.parametrize("page", [b"", bytes(4095), bytes(4097)])
def test_page_of_another_size(page):
    with pytest.raises(ValueError, match="4096 bytes"):
        launch_digest([(0, page)])


@given(st.integers().filter(lambda gpa: gpa % 4096 or not 0 <= gpa < 1 << 64))
def test_address_that_no_page_has(gpa):
    with pytest.raises(ValueError, match="address"):
        launch_digest([(gpa, bytes(4096))])
