"""`vtpm-ca key`: the three ways to name a key, and what the commands print."""

import json
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


@pytest.fixture
def iak(here, ca, tmp_path):
    """Files with the IAK's certificate and key, and the digest that OpenSSL makes of it."""
    rows = json.loads(here("cert", "list", "--dir", ca, "--json").out)
    serial = next(row["serial"] for row in rows if row["profile"] == "iak")
    cert, pub, der = (tmp_path / name for name in ("iak.pem", "iak.pub", "iak.der"))
    cert.write_text(json.loads(here("cert", "show", serial, "--dir", ca, "--json").out)["pem"])

    def openssl(*words, data=None):
        return subprocess.run(["openssl", *words], input=data, capture_output=True, check=True).stdout

    pub.write_bytes(openssl("x509", "-in", cert, "-noout", "-pubkey"))
    spki = openssl("pkey", "-pubin", "-in", pub, "-outform", "DER")
    der.write_bytes(spki)
    (tmp_path / "iak.crt").write_bytes(openssl("x509", "-in", cert, "-outform", "DER"))
    printed = openssl("dgst", "-sha256", "-c", data=spki).decode().split()[-1]
    return serial, tmp_path, printed


def block(here, ca, *words):
    return here("key", "block", *words, "--cause", "known", "--dir", ca)


def listed(here, ca):
    return [row["spki"] for row in json.loads(here("key", "list", "--json", "--dir", ca).out)]


def test_every_way_to_name_a_key_means_the_same(here, ca, iak):
    serial, folder, printed = iak
    plain = printed.replace(":", "")
    ways = [
        ("--cert", folder / "iak.pem"),
        ("--cert", folder / "iak.crt"),
        ("--pub", folder / "iak.pub"),
        ("--pub", folder / "iak.der"),
        (plain,),
        (printed.upper(),),
    ]
    for way in ways:
        done = block(here, ca, *way)
        assert (done.code, done.err) == (0, "")
        assert serial in done.out
        assert f"{plain} is blocked" in done.out
        assert "add --revoke" in done.out
        assert listed(here, ca) == [plain]
        done = here("key", "unblock", *way, "--yes", "--dir", ca)
        assert (done.code, done.err) == (0, "")
        assert listed(here, ca) == []


def test_revoking_is_a_dry_run_first(here, ca, iak):
    serial, folder, _ = iak
    done = block(here, ca, "--cert", folder / "iak.pem", "--revoke")
    assert (done.code, done.err) == (0, "")
    assert serial in done.out
    assert "dry run" in done.out
    assert listed(here, ca) == []
    done = block(here, ca, "--cert", folder / "iak.pem", "--revoke", "--yes")
    assert (done.code, done.err) == (0, "")
    assert "revoked" in done.out
    assert "dry run" not in done.out
    assert len(listed(here, ca)) == 1
    shown = json.loads(here("cert", "show", serial, "--dir", ca, "--json").out)
    assert (shown["state"], shown["reason"]) == ("revoked", "keyCompromise")


def test_json(here, ca):
    done = here("key", "block", "ab" * 32, "--cause", "known", "--json", "--dir", ca)
    result = json.loads(done.out)
    assert (result["done"], result["certificates"], result["key"]["cause"]) == (True, [], "known")
    done = here("key", "unblock", "ab" * 32, "--json", "--dir", ca)
    assert not json.loads(done.out)["done"]


def test_for_people(here, ca):
    assert here("key", "list", "--dir", ca).out == "no key is blocked\n"
    assert "the key has no live certificate" in block(here, ca, "ab" * 32).out
    assert "known" in here("key", "list", "--dir", ca).out
    done = here("key", "unblock", "ab" * 32, "--dir", ca)
    assert "dry run" in done.out
    assert "known" in done.out
    done = here("key", "unblock", "cd" * 32, "--dir", ca)
    assert (done.code, done.out) == (1, "")
    assert "not blocked" in done.err


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("ab" * 32, "--pub", "x"),
        ("--cert", "x", "--pub", "x"),
        ("ab" * 31,),
        ("xy" * 32,),
        ("ab" * 32, "--yes"),
    ],
)
def test_usage(here, ca, words):
    done = block(here, ca, *words)
    assert (done.code, done.out) == (2, "")
    assert done.err
    assert listed(here, ca) == []


def test_a_cause_is_demanded(here, ca):
    done = here("key", "block", "ab" * 32, "--dir", ca)
    assert done.code == 2
    assert "--cause" in done.err


def test_of_several_keys_in_a_file_none_is_left_out_unnoticed(here, ca, iak):
    _, folder, _ = iak
    for option, name in (("--cert", "iak.pem"), ("--pub", "iak.pub")):
        several = folder / "several"
        several.write_bytes((folder / name).read_bytes() * 2)
        done = block(here, ca, option, several)
        assert (done.code, done.out) == (2, "")
        assert "more than one" in done.err
    assert listed(here, ca) == []


def test_files_that_hold_no_key(here, ca, tmp_path):
    odd = tmp_path / "odd"
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for content in (b"", b"\xff", b"-----BEGIN PUBLIC KEY-----\n", spki[:-1], b"x" * 100_000):
        odd.write_bytes(content)
        for option in ("--cert", "--pub"):
            done = block(here, ca, option, odd)
            assert (done.code, done.out) == (2, ""), (content, option)
            assert str(odd) in done.err
    odd.write_bytes(spki)
    assert block(here, ca, "--cert", odd).code == 2
    assert block(here, ca, "--pub", tmp_path / "missing").code == 2
    assert listed(here, ca) == []
    assert block(here, ca, "--pub", odd).code == 0
