"""Stateless nonces: only ours, only for us, only for a while."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_service.enrollment.nonces import NONCE_CHECKS, NonceEvidence, make_nonce
from ca_service.judgment import judge_until_failure
from vtpm.wire.encoding import b64url, unb64url

KEY = bytes(range(32))
AT = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
NONCE = make_nonce(KEY, "ca-1", AT + timedelta(minutes=5), bytes(16))


def refusal(**changes) -> str:
    values = {"nonce": NONCE, "aud": "ca-1", "ca_id": "ca-1", "key": KEY, "at": AT, **changes}
    finding = judge_until_failure(NONCE_CHECKS, NonceEvidence(**values)).refusal
    return "" if finding is None else finding.rule


def test_a_fresh_nonce_of_ours_is_good():
    assert refusal() == ""
    assert refusal(at=AT + timedelta(minutes=5)) == ""


def test_what_each_check_refuses():
    assert refusal(aud="ca-2") == "nonce.audience"
    assert refusal(aud="ca-2", ca_id="ca-2") == "nonce.genuine"
    assert refusal(key=bytes(32)) == "nonce.genuine"
    assert refusal(at=AT + timedelta(minutes=5, seconds=1)) == "nonce.unexpired"


@pytest.mark.parametrize("bit", range(0, 56 * 8, 7))
def test_a_flipped_bit_makes_it_foreign(bit: int):
    raw = bytearray(unb64url(NONCE, "nonce"))
    raw[bit // 8] ^= 1 << bit % 8
    assert refusal(nonce=b64url(bytes(raw))) == "nonce.genuine"


@given(st.text(max_size=100))
def test_any_text_is_judged_without_an_error(text: str):
    assert refusal(nonce=text) == "nonce.genuine"


def test_a_nonce_needs_its_randomness():
    with pytest.raises(ValueError, match="16"):
        make_nonce(KEY, "ca-1", AT, b"")


def test_the_key_is_not_shown():
    assert KEY.hex() not in repr(NonceEvidence(NONCE, "a", "b", KEY, AT))
