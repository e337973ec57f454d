"""schemathesis asks a running server for everything that the contract says, and for what it says is wrong."""

import json
import re
import subprocess
from pathlib import Path

import contract_stage
import pytest
from cryptography import x509

from ca_service.cli.channel import ask_server

API = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
SURFACES = ("enrolment", "publication", "operation")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory):
    with contract_stage.served(tmp_path_factory.mktemp("h")) as found:
        yield found


@pytest.fixture(scope="module")
def ports(site):
    return site[1]


def check(done, least: int) -> None:
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    (generated, passed) = re.findall(r"(\d+) generated, (\d+) passed", done.stdout)[0]
    assert generated == passed
    assert int(passed) >= least


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("selection", "least"),
    [
        (("--include-tag", "enrolment"), 100),
        (("--include-tag", "publication"), 100),
        # The long run has all of them.
        (("--include-operation-id-regex", "^(cert-|instance-|policy-|revoke$|issuer-announce$)"), 200),
    ],
    ids=SURFACES,
)
def test_the_contract_holds(ports, tmp_path, request, selection, least):
    port = ports[request.node.callspec.id]
    check(
        contract_stage.hold(
            port, tmp_path, *selection, "--phases", "coverage,fuzzing", "--max-examples", "2"
        ),
        least,
    )


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("surface", SURFACES)
def test_the_contract_holds_for_long(ports, tmp_path, surface):
    done = contract_stage.hold(
        ports[surface],
        tmp_path,
        "--include-tag",
        surface,
        "--phases",
        # Only there do answers name what other calls ask for.
        "examples,coverage,fuzzing" + (",stateful" if surface == "enrolment" else ""),
        "--max-examples",
        "150",
        seconds=1400,
    )
    check(done, 1000)


@pytest.mark.slow
def test_a_server_that_breaks_it_is_found(ports, tmp_path):
    """A listener without these paths."""
    done = contract_stage.hold(
        ports["enrolment"],
        tmp_path,
        "--include-tag",
        "publication",
        "--phases",
        "coverage",
        "--max-failures",
        "1",
    )
    assert done.returncode == 1
    assert re.search(r"- ST\d+ ", done.stdout)


def test_the_commands_of_the_document(site, tmp_path):
    directory, ports = site
    listed = ask_server(directory, "cert-list", {"limit": 3})
    environment = {
        "PATH": "/usr/bin:/bin",
        "CA": f"http://127.0.0.1:{ports['enrolment']}",
        "PUBLISHED": f"http://127.0.0.1:{ports['publication']}",
        "VTPM_CA_DIR": str(directory),
        "SERIAL": listed[0]["serial"],
    }

    def run(mark: str) -> str:
        (block,) = re.findall(rf"<!-- tested: {mark} -->\n```sh\n(.*?)```", API, re.DOTALL)
        return subprocess.run(
            ["bash", "-ec", block],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout

    run("document")
    assert json.loads((tmp_path / "openapi.json").read_text()) == json.loads(
        contract_stage.DOCUMENT.read_text()
    )
    assert json.loads(run("operation")) == {"result": listed}
    assert len(x509.load_pem_x509_certificates(run("chain").encode())) == 3
