"""What is wrong inside is said to operators and to the log; whoever else asks learns that he has to go elsewhere."""

import pytest
import structlog

from ca_service.judgment import Unavailable
from ca_service.service import OPERATOR
from vtpm.wire.problem import Problem

INSIDE = "the collateral bundle /srv/ca/collateral cannot be read: Permission denied"


@pytest.fixture
def failing(services, monkeypatch):
    def enroll(_body: bytes) -> None:
        raise Unavailable(INSIDE, code="storage")

    monkeypatch.setattr(type(services.enroller), "new_nonce", lambda _self: enroll(b""))


def test_no_place_in_an_answer(client, failing):
    with structlog.testing.capture_logs() as lines:
        response = client.post("/v1/nonces")
    found = Problem.parse(response.data)
    assert (response.status_code, found.code, found.retryable) == (503, "storage", True)
    assert "/" not in found.detail
    assert [line["reason"] for line in lines if line["event"] == "request"] == [INSIDE]


def test_an_operator_learns_it(client, failing):
    response = client.post("/v1/nonces", environ_overrides={OPERATOR: "alice"})
    assert Problem.parse(response.data).detail == INSIDE
