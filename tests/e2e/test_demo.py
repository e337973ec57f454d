"""`make demo`'s command tells its story to the end, leaves its artefacts, and no secret among them.

The commands of its story are forked by what it starts; the long runs have them started by name.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography import x509
from forked import CA, DEVICE, SCRIPT

from vtpm.kbs import Kbs

LIMIT_S = 110
FORKED = """
import sys
from pathlib import Path
from vtpm.lab.demo import __main__, stage
stage._BIN = Path(sys.argv.pop(1))
__main__.main()
"""


@pytest.fixture(scope="session", params=["forked", pytest.param("by name", marks=pytest.mark.slow)])
def held(request, programs, forks, tmp_path_factory):
    """The demonstration with --hold, once it holds; yields its folder and what it printed."""
    out = tmp_path_factory.mktemp("demo") / "out"
    log = out.parent / "demo.log"
    options = ("--hold", "--out", str(out))
    with log.open("w") as stream:
        if request.param == "by name":
            demo = subprocess.Popen(
                [sys.executable, "-m", "vtpm.lab.demo", *options], stdout=stream, stderr=stream
            )
        else:
            bin_ = out.parent / "bin"
            bin_.mkdir()
            for name in (CA, DEVICE):
                programs.add(bin_ / name, forks, name)
            words = (FORKED, bin_, *options)
            demo = forks.popen(SCRIPT, words, env=dict(os.environ), stdout=stream, stderr=stream)
    deadline = time.monotonic() + LIMIT_S
    while "HOLD" not in log.read_text():
        assert demo.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    yield out, log.read_text()
    demo.send_signal(signal.SIGINT)
    assert demo.wait(60) == 0


@pytest.mark.timeout(LIMIT_S + 80)
class TestDemo:
    def test_it_names_both_rules_and_its_folder(self, held):
        out, printed = held
        assert "rule kbs.listed" in printed
        assert "rule svsm.epk: the CA was never asked" in printed
        assert str(out) in printed
        assert re.search(r"Done in \d+\.\d s", printed)

    def test_artefacts(self, held):
        out, _ = held
        for role in ("ek", "iak", "idevid"):
            x509.load_pem_x509_certificate((out / f"{role}.pem").read_bytes())
        assert (out / "tcti").read_text().count("\n") == 1
        assert len(list((out / "tpm_cert_store").glob("*.pem"))) == 2
        trace = json.loads((out / "attack-m1-decision.json").read_text())
        assert trace["rule"] == "kbs.listed"

    def test_held_tpm_is_that_of_the_certificates(self, held):
        out, _ = held
        tcti = (out / "tcti").read_text().strip()
        for name, index in (("ek", "0x01c00002"), ("iak", "0x01c90100"), ("idevid", "0x01c90200")):
            der = subprocess.run(
                ["tpm2_nvread", "-T", tcti, "-C", "o", index], capture_output=True, check=True, timeout=30
            ).stdout
            issued = x509.load_pem_x509_certificate((out / f"{name}.pem").read_bytes())
            assert x509.load_der_x509_certificate(der) == issued

    def test_independent_createek_makes_the_certified_key(self, held, tmp_path):
        out, _ = held
        tcti = (out / "tcti").read_text().strip()
        public = tmp_path / "ek.pub.pem"
        subprocess.run(
            ["tpm2_createek", "-T", tcti, "-G", "rsa", "-c", tmp_path / "ek.ctx", "-u", public, "-f", "pem"],
            check=True,
            capture_output=True,
            timeout=30,
        )
        subprocess.run(["tpm2_flushcontext", "-T", tcti, "-t"], check=True, capture_output=True, timeout=30)
        certificate = subprocess.run(
            ["openssl", "x509", "-in", out / "ek.pem", "-noout", "-pubkey"], capture_output=True, check=True
        ).stdout
        assert certificate == public.read_bytes()

    def test_no_secret_in_logs_argv_or_disk(self, held):
        """The KBS's secrets and the CA's keys are nowhere in clear: not on disk, not in a log, not in argv."""
        out, printed = held
        secrets = [*_kbs_secrets(out / "kbs"), (out / "ca-passphrase").read_bytes().strip()]
        assert len(secrets) == 3
        needles = [form for secret in secrets for form in _forms(secret)]
        allowed = {out / "ca-passphrase"}
        files = [path for path in out.rglob("*") if path.is_file() and path not in allowed]
        assert len(files) > 20
        for path in files:
            content = path.read_bytes()
            assert not any(needle in content for needle in needles), path
            assert b"PRIVATE KEY" not in content, path
        assert not any(needle in printed.encode() for needle in needles)
        for arguments in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = arguments.read_bytes()
            except OSError:
                continue
            assert not any(needle in line for needle in needles)

    def test_private_files_are_private(self, held):
        out, _ = held
        for folder in (out / "ca" / "private", out / "ca" / "offline", out / "kbs"):
            assert folder.stat().st_mode & 0o077 == 0, folder
        assert (out / "ca-passphrase").stat().st_mode & 0o077 == 0


def _kbs_secrets(directory):
    kbs = Kbs.create_or_open(directory)
    return [kbs.secret(f"default/vtpm/{name}").value for name in ("demo", "victim")]


def _forms(secret):
    return [
        secret,
        secret.hex().encode(),
        base64.b64encode(secret).rstrip(b"="),
        base64.urlsafe_b64encode(secret).rstrip(b"="),
    ]


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("precious")
    done = subprocess.run(
        [sys.executable, "-m", "vtpm.lab.demo", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "not empty" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
