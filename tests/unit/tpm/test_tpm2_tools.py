"""Independent clients: tpm2-tools through the gateway, with libtss2's own swtpm TCTI."""

import hashlib
import shutil
import subprocess

import pytest

from vtpm.tpm import GuestGateway, manufacture, write_certificate
from vtpm.wire.templates import Role, name, template

pytestmark = pytest.mark.skipif(shutil.which("tpm2_getcap") is None, reason="tpm2-tools are not installed")


@pytest.fixture
def tools(make_tpm, templates_of, tmp_path):
    """A manufactured TPM behind a gateway, its keys, and a caller of tpm2-tools."""
    tpm = make_tpm()
    keys = manufacture(tpm, *templates_of(("L-1", "L-2", "H-3"), "H-3", "H-3"))
    with GuestGateway(tpm) as gateway:

        def run(tool, *arguments):
            done = subprocess.run(
                [tool, "-T", gateway.tcti, *map(str, arguments)],
                cwd=tmp_path,
                capture_output=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stderr.decode()
            return done.stdout

        yield tpm, keys, run


def test_getcap(tools):
    _, _, run = tools
    assert "TPM2_PT_MANUFACTURER" in run("tpm2_getcap", "properties-fixed").decode()
    handles = run("tpm2_getcap", "handles-persistent").decode()
    for handle in ("0x81010001", "0x81020000", "0x81020001"):
        assert handle in handles


@pytest.mark.parametrize(
    ("algorithm", "id_", "number"), [("rsa", "L-1", 0), ("ecc", "L-2", 1), ("ecc384", "H-3", 2)]
)
def test_createek_makes_the_same_ek(tools, tmp_path, algorithm, id_, number):
    _, keys, run = tools
    assert keys.eks[number].template == id_
    run("tpm2_createek", "-G", algorithm, "-c", "ek.ctx", "-u", "ek.pub")
    run("tpm2_flushcontext", "-t")
    public = (tmp_path / "ek.pub").read_bytes()
    assert public[2:] == keys.eks[number].public  # TPM2B_PUBLIC: size, then TPMT_PUBLIC


def test_getekcertificate_reads_what_was_written(tools, tmp_path):
    tpm, _, run = tools
    der = bytes.fromhex("3082047a") + bytes(0x47A)
    write_certificate(tpm, template(Role.EK, "L-1").nv_index, der)
    run("tpm2_nvread", "0x01C00002", "-o", "nv.der")
    assert (tmp_path / "nv.der").read_bytes() == der
    run("tpm2_getekcertificate", "-X", "-o", "ek.der")
    assert (tmp_path / "ek.der").read_bytes() == der


def test_quote_by_the_persistent_iak(tools, tmp_path):
    _, keys, run = tools
    run("tpm2_readpublic", "-c", "0x81020001", "-f", "pem", "-o", "iak.pem", "-n", "iak.name")
    assert (tmp_path / "iak.name").read_bytes() == name(keys.iak.public)
    challenge = hashlib.sha256(b"challenge").hexdigest()
    files = ("-m", "quote.msg", "-s", "quote.sig", "-o", "quote.pcr")
    run("tpm2_quote", "-c", "0x81020001", "-l", "sha256:0,1,2", "-q", challenge, "-g", "sha384", *files)
    files = ("-m", "quote.msg", "-s", "quote.sig", "-f", "quote.pcr")
    subprocess.run(
        ["tpm2_checkquote", "-u", "iak.pem", "-q", challenge, "-g", "sha384", *files],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=60,
    )


def test_an_owners_own_key_and_nv(tools):
    _, _, run = tools
    run("tpm2_createprimary", "-C", "o", "-G", "ecc", "-c", "own.ctx")
    run("tpm2_flushcontext", "-t")
    run("tpm2_nvdefine", "0x01800001", "-s", "8", "-a", "ownerread|ownerwrite")
    assert "0x1800001" in run("tpm2_nvreadpublic").decode()
