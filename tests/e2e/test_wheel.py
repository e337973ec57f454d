"""The installed wheel, in an empty folder and without the checkout: commands and data files are all there."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from vtpm.svsm.build import measurement

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The `bin` folder of a new environment with the wheel in it; dependencies are this environment's."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, ROOT],
        check=True,
        timeout=120,
    )
    (wheel,) = folder.glob("vtpm_ca-*.whl")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True, timeout=60)
    python = environment / "bin" / "python"
    subprocess.run(
        [*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True, timeout=120
    )
    (site,) = (environment / "lib").glob("python3*/site-packages")
    # The path alone: .pth files in that folder, the editable checkout among them, are not followed.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin"


@pytest.fixture
def run(installed, tmp_path):
    """Runs a command of the installed wheel in an empty folder."""
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {
        "PATH": f"{installed}:{os.environ['PATH']}",
        "HOME": str(empty),
        "VTPM_CA_PASSPHRASE": "correct-horse-battery-staple",
    }

    def command(*words):
        done = subprocess.run(
            words, cwd=empty, env=environment, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    command.folder = empty
    return command


def _python(run, code):
    return run("python", "-c", code)


def test_it_is_the_wheel_that_runs(run, installed):
    shown = _python(run, "import ca_service, vtpm; print(ca_service.__file__, vtpm.__file__)")
    for path in shown.split():
        assert Path(path).is_relative_to(installed.parent)


def test_measure(run):
    """The installed SVSM is the checkout's, byte for byte."""
    assert run("vtpm", "measure").strip() == measurement().hex()


def test_pinned_roots_are_found(run):
    shown = _python(
        run,
        "from ca_service.evidence.snp import amd_roots, simulated_roots;"
        "print(*sorted(root.product.value for root in amd_roots()), len(simulated_roots()))",
    )
    assert shown.split()[:3] == ["Genoa", "Milan", "Turin"]
    assert int(shown.split()[-1]) >= 1


def test_a_ca_with_the_packaged_examples(run):
    documents = "from ca_service.policy import example_document as e; from pathlib import Path;"
    for document in ("ceremony-simulation.toml", "simulation.toml"):
        _python(run, f"{documents} Path({document!r}).write_text(e({document!r}))")
        assert (run.folder / document).read_text() == (ROOT / "policies" / document).read_text()
    run("vtpm-ca", "init", "ca", "--config", "ceremony-simulation.toml")
    policy = (run.folder / "simulation.toml").read_text()
    policy += run("vtpm", "kbs", "key", "kbs", "--policy") + run("vtpm", "measure", "--policy")
    (run.folder / "policy.toml").write_text(policy)
    run("vtpm-ca", "policy", "apply", "policy.toml", "--dir", "ca")
    rows = json.loads(run("vtpm-ca", "ca", "list", "--json", "--dir", "ca"))
    assert rows


def test_the_packaged_policy_with_its_tests(run):
    where = (
        "from importlib.resources import files; print(files('ca_service') / 'data' / 'policies' / 'tested')"
    )
    policy = Path(_python(run, where).strip()) / "policy.toml"
    assert not policy.is_relative_to(ROOT)
    assert "all 7 tests hold" in run("vtpm-ca", "policy", "test", str(policy))


@pytest.mark.slow
def test_the_whole_demonstration(run):
    shown = run("python", "-m", "vtpm.lab.demo", "--out", "demo")
    assert "Done in" in shown
