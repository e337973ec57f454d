"""`vtpm-ca collateral` from the command line, on a CA's own bundle and on a bundle alone."""

import json
import shutil
from pathlib import Path

import pytest

VECTORS = Path(__file__).parents[2] / "vectors" / "snp-evidence"
VCEK = VECTORS / "milan-v2-vcek-azure" / "vcek.der"
CRL = VECTORS / "crl" / "ark-milan-2025-05-06.der"
SIMULATED = Path(__file__).parents[3] / "certs" / "simulated" / "ask.pem"


@pytest.fixture
def bundle(tmp_path):
    return tmp_path / "bundle"


def test_a_bundle_alone_needs_no_ca(here, bundle):
    done = here("collateral", "add", "--bundle", bundle, VCEK, CRL)
    assert (done.code, done.err) == (0, "")
    assert [line.split()[0] for line in done.out.splitlines()] == ["added", "added"]
    done = here("collateral", "add", "--bundle", bundle, VCEK, "--json")
    (row,) = json.loads(done.out)
    assert (row["source"], row["kind"], row["added"]) == (str(VCEK), "vcek", False)
    assert sorted(path.name for path in bundle.iterdir()) == sorted(
        row["file"] for row in json.loads(here("collateral", "list", "--bundle", bundle, "--json").out)
    )


def test_the_listing_for_people(here, bundle):
    assert here("collateral", "add", "--bundle", bundle, VCEK, CRL).code == 0
    head, *rows = here("collateral", "list", "--bundle", bundle, "--at", "2025-06-01").out.splitlines()
    assert head.split() == ["kind", "product", "whose", "tcb", "serial", "valid", "state"]
    assert [row.split()[0] for row in rows] == ["crl", "vcek"]
    assert all(row.endswith("valid") for row in rows)


def test_verify_says_what_is_wrong(here, bundle):
    here("collateral", "add", "--bundle", bundle, VCEK, CRL)
    done = here("collateral", "verify", "--bundle", bundle, "--at", "2025-06-01T00:00:00Z")
    assert (done.code, done.out) == (0, "all is well with 2 files\n")
    done = here("collateral", "verify", "--bundle", bundle, "--at", "2035-01-01", "--json")
    found = json.loads(done.out)
    assert (done.code, found["well"], found["files"]) == (1, False, 2)
    assert {problem["file"].split("-")[0] for problem in found["problems"]} == {"crl", "vcek"}
    assert "2 problems" in done.err
    (bundle / "notes.txt").touch()
    done = here("collateral", "verify", "--bundle", bundle, "--at", "2025-06-01")
    assert (done.code, done.out) == (1, "notes.txt is no file of a bundle; it is not read\n")


def test_the_cas_mode_says_whether_simulated_roots_count(here, empty, bundle):
    assert here("collateral", "list", "--dir", empty).out == "the bundle is empty\n"
    assert here("collateral", "add", "--dir", empty, SIMULATED, VCEK).code == 0
    rows = json.loads(here("collateral", "list", "--dir", empty, "--json").out)
    assert sorted((row["kind"], row["simulated"]) for row in rows) == [("ask", True), ("vcek", False)]
    refused = here("collateral", "add", "--bundle", bundle, SIMULATED)
    assert refused.code == 1
    assert f"{SIMULATED}: is the certificate of SEV-" in refused.err
    assert not bundle.exists()
    assert here("collateral", "add", "--bundle", bundle, "--simulated", SIMULATED).code == 0


def test_what_is_used_wrongly(here, empty, bundle, tmp_path):
    big = tmp_path / "big.der"
    big.write_bytes(bytes((1 << 20) + 1))
    for words in (
        ("add", "--bundle", bundle),
        ("add", "--bundle", bundle, tmp_path / "none.der"),
        ("add", "--bundle", bundle, big),
        ("add", "--bundle", tmp_path / "a" / "b", "--dir"),
        ("add", VCEK),
        ("add", "--dir", tmp_path, VCEK),
        ("list", "--dir", empty, "--simulated"),
        ("list", "--bundle", bundle),
        ("verify", "--bundle", bundle),
        ("verify", "--bundle", tmp_path, "--at", "yesterday"),
    ):
        assert here("collateral", *words).code == 2, words
    assert here("collateral", "add", "--bundle", tmp_path / "a" / "b", VCEK).code == 3
    assert here("collateral", "list", "--bundle", "", "--dir", empty).code == 2


def test_a_server_does_not_start_on_a_damaged_list(here, empty):
    assert here("collateral", "add", "--dir", empty, CRL).code == 0
    (path,) = (empty / "collateral").iterdir()
    path.write_bytes(b"damaged")
    done = here("serve", "--dir", empty)
    assert (done.code, "collateral verify" in done.err) == (3, True)
    shutil.rmtree(empty / "collateral")
