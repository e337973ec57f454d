"""What comes in force can be audited: an auditor reads documents within bounds only."""

import pytest

from ca_service.audit.policies import digest_of_policy
from ca_service.judgment import BadRequest
from ca_service.policy import load, load_complete
from ca_service.policy.bounds import MAX_POLICY, MOST_DOTS, check_bounds


@pytest.fixture
def text(content, toml):
    return toml(content)


def test_whatever_may_come_in_force_has_a_digest_for_auditors(text):
    longest = f"{text}# {'.' * MOST_DOTS}\n# {'.' * MOST_DOTS}\n"
    assert load_complete(longest).digest == digest_of_policy(longest.encode()) == load(text).digest


def test_too_many_dots_in_a_line_are_refused_by_both(text):
    dotted = f"{text}# {'.' * (MOST_DOTS + 1)}\n"
    line = dotted.count("\n")
    for read in (load_complete, lambda text: digest_of_policy(text.encode())):
        with pytest.raises(BadRequest, match=f"line {line} has more") as caught:
            read(dotted)
        assert caught.value.code == "policy-invalid"
    # What was put in force before goes on judging.
    assert load(dotted).digest == load(text).digest


def test_bytes_count_and_not_characters():
    check_bounds(b"#" * MAX_POLICY)
    with pytest.raises(BadRequest, match="bytes long"):
        check_bounds("\N{EURO SIGN}".encode() * (MAX_POLICY // 3 + 1))
