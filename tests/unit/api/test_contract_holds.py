"""schemathesis asks a running server for everything that the contract says, and for what it says is wrong."""

import re

import contract_stage
import pytest

SURFACES = ("enrolment", "publication", "operation")


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory):
    with contract_stage.served(tmp_path_factory.mktemp("h")) as ports:
        yield ports


def check(done, least: int) -> None:
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    (generated, passed) = re.findall(r"(\d+) generated, (\d+) passed", done.stdout)[0]
    assert generated == passed
    assert int(passed) >= least


@pytest.mark.parametrize(("surface", "least"), [("enrolment", 100), ("publication", 100), ("operation", 500)])
def test_the_contract_holds(ports, tmp_path, surface, least):
    done = contract_stage.hold(
        ports[surface], surface, tmp_path, "--phases", "coverage,fuzzing", "--max-examples", "2"
    )
    check(done, least)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("surface", SURFACES)
def test_the_contract_holds_for_long(ports, tmp_path, surface):
    done = contract_stage.hold(
        ports[surface],
        surface,
        tmp_path,
        "--phases",
        "examples,coverage,fuzzing,stateful",
        "--max-examples",
        "150",
        seconds=1400,
    )
    check(done, 1000)


def test_a_server_that_breaks_it_is_found(ports, tmp_path):
    """A listener without these paths."""
    done = contract_stage.hold(
        ports["enrolment"], "publication", tmp_path, "--phases", "coverage", "--max-failures", "1"
    )
    assert done.returncode == 1
    assert "Undocumented" in done.stdout
