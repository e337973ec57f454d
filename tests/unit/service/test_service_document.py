"""docs/serving.md and docs/protocol.md say the bounds that the code has."""

from pathlib import Path

import pytest

from ca_service.cli import listeners
from ca_service.service import Bounds, Patience, request
from ca_service.service.listeners import IN_A_HURRY
from ca_service.service.server import GRACE_S

DOCS = Path(__file__).parents[3] / "docs"
SERVING = (DOCS / "serving.md").read_text()
PROTOCOL = (DOCS / "protocol.md").read_text()


def row(name: str) -> list[str]:
    (line,) = [line for line in SERVING.splitlines() if line.startswith(f"| {name}")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_bounds():
    bounds: list[Bounds] = [listeners.ENROLMENT, listeners.PUBLICATION, listeners.OPERATORS]
    assert row("requests at work") == [str(b.threads) for b in bounds]
    assert row("connections |") == [str(b.connections) for b in bounds]
    assert [cell.split()[0] for cell in row("connections of one")] == [str(b.per_client) for b in bounds]
    assert row("content") == [f"{b.body >> 10:,} KiB" for b in bounds]
    assert row("requests and responses") == [f"{b.buffered >> 20} MiB" for b in bounds]


@pytest.mark.parametrize(
    ("name", "field"),
    [("first byte", "first"), ("a request from", "request"), ("taking", "answer"), ("between", "idle")],
)
def test_time_limits(name, field):
    assert row(name) == [f"{getattr(Patience(), field):.0f}"]


def test_the_end():
    assert f"within {IN_A_HURRY.idle} seconds" in SERVING
    assert f"at most {GRACE_S} seconds" in SERVING


def test_the_protocol():
    assert f"A request has {Patience().request:.0f} seconds" in PROTOCOL
    assert f"after {Patience().idle:.0f} idle seconds" in PROTOCOL
    for number in (request.MOST_LINE, request.MOST_FIELD, request.MOST_HEAD):
        assert f"{number:,}" in PROTOCOL
    refusals = [value for value in vars(request).values() if isinstance(value, request.Refusal)]
    assert len(refusals) > 10
    for refusal in refusals:
        if refusal.status not in (403, 505):
            assert any(
                f"`{refusal.code}`" in line and str(refusal.status) in line
                for line in PROTOCOL.splitlines()
                if line.startswith("| ")
            ), refusal
