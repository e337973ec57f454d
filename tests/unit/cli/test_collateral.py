"""`vtpm-ca collateral` from the command line, on a CA's own bundle and on a bundle alone."""

import copy
import dataclasses
import json
import re
import shlex
import shutil
import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from kds_stand_in import Says, StandIn

from ca_service.collateral.kds import AMD_KDS, KdsClient, KdsLimits
from ca_service.collateral.kds.urls import vcek_path
from ca_service.enrollment import Desk
from vtpm.snp import Platform
from vtpm.wire.certtable import CertKind, pack_table

VECTORS = Path(__file__).parents[2] / "vectors" / "snp-evidence"
VCEK = VECTORS / "milan-v2-vcek-azure" / "vcek.der"
CRL = VECTORS / "crl" / "ark-milan-2025-05-06.der"
GENOA_CRL = VECTORS / "crl" / "ark-genoa-2022-10-31.der"
CERTS = Path(__file__).parents[3] / "certs"
SIMULATED = CERTS / "simulated" / "ask.pem"


@pytest.fixture
def bundle(tmp_path):
    return tmp_path / "bundle"


@pytest.fixture
def kds(monkeypatch):
    """A stand-in for AMD's service; the environment's proxies do not stand before it."""
    monkeypatch.setenv("NO_PROXY", "*")
    made = StandIn()
    yield made
    made.close()


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
    (bundle / ".new-mine").mkdir()
    done = here("collateral", "verify", "--bundle", bundle, "--at", "2025-06-01")
    assert (done.code, done.out.splitlines()) == (
        1,
        [f"{name} is no file of a bundle; it is not read" for name in (".new-mine", "notes.txt")],
    )


def test_verify_says_what_lists_are_missing(here, bundle):
    bundle.mkdir()
    words = ("collateral", "verify", "--bundle", bundle, "--at", "2025-06-01")
    done = here(*words)
    assert (done.code, done.err) == (0, "")
    assert done.out == "note: the bundle is empty, so nothing is known to be revoked\n"
    assert here(*words, "--require-lists").code == 1
    here("collateral", "add", "--bundle", bundle, VCEK)
    done = here(*words)
    assert (done.code, "note: there is no revocation list of ARK-Milan" in done.out) == (0, True)
    assert "all is well with 1 file\n" in done.out
    strict = here(*words, "--require-lists", "--json")
    found = json.loads(strict.out)
    assert (strict.code, found["well"], found["problems"], len(found["notes"])) == (1, False, [], 1)
    assert "1 problem in" in strict.err
    here("collateral", "add", "--bundle", bundle, CRL)
    done = here(*words, "--require-lists")
    assert (done.code, done.out) == (0, "all is well with 2 files\n")


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


class TestFetch:
    def test_lists_and_authorities(self, here, bundle, kds):
        asvk = (CERTS / "amd" / "genoa-asvk.pem").read_bytes() + (
            CERTS / "amd" / "genoa-ark.pem"
        ).read_bytes()
        kds.answers["/vlek/v1/Genoa/cert_chain"] = Says(body=asvk)
        kds.answers["/vcek/v1/Genoa/crl"] = Says(body=GENOA_CRL.read_bytes())
        words = ("collateral", "fetch", "--bundle", bundle, "--kds-url", kds.url, "--product", "Genoa")
        done = here(*words)
        assert (done.code, done.err) == (0, "")
        lines = dict(line.split(": ", 1) for line in done.out.splitlines())
        assert lines["vcek/v1/Genoa/cert_chain"] == "the service has none"
        assert lines["vcek/v1/Genoa/crl"].startswith("added crl-")
        assert len(list(bundle.iterdir())) == 2
        again = json.loads(here(*words, "--json").out)
        assert [len(result["present"]) for result in again] == [0, 1, 1, 0]

    def test_what_fails_does_not_keep_the_rest_back(self, here, bundle, kds, monkeypatch):
        limits = KdsLimits(pause_s=0.01)
        monkeypatch.setattr(
            "ca_service.collateral.kds.KdsClient", lambda url, fetch: KdsClient(url, fetch, limits)
        )
        kds.answers["/vcek/v1/Milan/cert_chain"] = Says(503)
        kds.answers["/vcek/v1/Milan/crl"] = Says(body=CRL.read_bytes())
        done = here("collateral", "fetch", "--bundle", bundle, "--kds-url", kds.url, "--product", "Milan")
        assert (done.code, "1 of 4 could not be fetched" in done.err) == (3, True)
        assert "left alone for 0 seconds" in done.err
        assert "status 503" in done.out.splitlines()[0]
        assert [path.name[:4] for path in bundle.iterdir()] == ["crl-"]

    def test_a_service_that_has_nothing(self, here, bundle, kds):
        done = here("collateral", "fetch", "--bundle", bundle, "--kds-url", f"{kds.url}/typo")
        assert (done.code, f"{kds.url}/typo has nothing of what was asked for" in done.err) == (3, True)
        assert len(done.out.splitlines()) == 12
        kds.answers["/vcek/v1/Milan/crl"] = Says(body=CRL.read_bytes())
        done = here("collateral", "fetch", "--bundle", bundle, "--kds-url", kds.url, "--json")
        assert done.code == 0
        assert done.err.splitlines() == [
            f"the service has neither certificates nor lists for {product}" for product in ("Genoa", "Turin")
        ]
        assert [row["product"] for row in json.loads(done.out)] == [
            product for product in ("Milan", "Genoa", "Turin") for _ in range(4)
        ]

    @pytest.mark.parametrize(
        ("names", "products"),
        [
            (("bergamo", "Siena", ""), ["Genoa"]),
            (("turin", "MILAN"), ["Turin", "Milan"]),
            (("",), ["Milan", "Genoa", "Turin"]),
        ],
    )
    def test_products(self, here, bundle, kds, names, products):
        words = [word for name in names for word in ("--product", name)]
        done = here("collateral", "fetch", "--bundle", bundle, "--kds-url", kds.url, *words, "--json")
        assert list(dict.fromkeys(row["product"] for row in json.loads(done.out))) == products

    def test_where_from(self, here, bundle):
        assert here("collateral", "fetch", "--bundle", bundle, "--kds-url", "ftp://x").code == 2
        assert here("collateral", "fetch", "--bundle", bundle, "--product", "Rome").code == 2


def post(server, path, body=b""):
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", body, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - likewise
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


@pytest.fixture
def chip(worked_ca, stage):
    """Function: a world whose VM runs on another chip, and the URL path and content of that chip's VCEK."""

    def other(seed):
        world = copy.copy(worked_ca)
        world.time = stage.now()
        world.platform = Platform.made(seed, clock=stage.now)
        world.launch = world.platform.launch([(0x1000 * i, bytes([i]) * 4096) for i in range(2)])
        path = vcek_path(world.platform.product, world.platform.chip_id, world.platform.tcb)
        return world, f"/{path}", world.platform.vcek_certificate

    return other


def test_a_server_takes_certificates_from_the_service_and_from_its_operator(
    serve, here, ca, kds, chip, stage, tmp_path
):
    """Two chips whose hosts hand out no certificate: AMD's service knows the one, the operator brings the other's."""
    world_a, path_a, vcek_a = chip(b"\x0a" * 32)
    world_b, path_b, vcek_b = chip(b"\x0b" * 32)
    kds.answers[path_a] = Says(body=vcek_a)
    server = serve(ca, "--kds-url", kds.url)
    tpm = stage.w.SoftTpm()

    def enroll(world, name):
        nonce = post(server, "/v1/nonces")[1]["nonce"]
        request = world.request(
            nonce, tpm, stage.w.Boot(resource=f"default/vtpm/{name}", secret=name.encode() * 32)
        )
        bare = dataclasses.replace(request, evidence=dataclasses.replace(request.evidence, certificates=None))
        return post(server, "/v1/enrollments", stage.w.encode(bare))

    assert enroll(world_a, "a")[0] == 201
    status, answer = enroll(world_b, "b")
    assert (status, answer["rule"]) == (403, "snp.leaf-present")
    assert kds.asked == {path_a: 1, path_b: 1}
    file = tmp_path / "b.der"
    file.write_bytes(vcek_b)
    assert here("collateral", "add", "--dir", ca, file).code == 0
    assert enroll(world_b, "b")[0] == 201
    assert enroll(world_a, "a")[0] == 201
    assert kds.asked == {path_a: 1, path_b: 1}
    assert server.end(signal.SIGTERM) == 0
    rows = json.loads(here("collateral", "list", "--dir", ca, "--json").out)
    assert {(row["simulated"], row["state"]) for row in rows} == {(True, "valid")}
    assert len(rows) == 2


@pytest.mark.parametrize(
    ("words", "base"),
    [((), None), (("--kds",), AMD_KDS), (("--kds-url", "http://127.0.0.1:1/"), "http://127.0.0.1:1")],
)
def test_a_server_asks_nobody_unless_told_to(here, ca, monkeypatch, words, base):
    judges, bases = [], []
    monkeypatch.setattr("ca_service.service.server.Server.run", lambda _server: sys.exit(0))
    monkeypatch.setattr("ca_service.cli.serving.Desk", lambda *a, **k: judges.append(a[2]) or Desk(*a, **k))
    monkeypatch.setattr(
        "ca_service.collateral.kds.KdsClient", lambda url, *a: bases.append(url) or KdsClient(url, *a)
    )
    assert here("serve", "--dir", ca, *words).code == 0
    assert bases == ([base] if base else [])
    assert (judges[0].supply.__name__ == "provide") == bool(base)


def commands_in(document, mark):
    (block,) = re.findall(rf"<!-- tested: {mark} -->\n```sh\n(.*?)```", document, re.DOTALL)
    return block.splitlines()


@pytest.mark.parametrize("mark", ["ca", "bundle", "kds"])
def test_the_commands_of_the_document(here, ca, kds, monkeypatch, tmp_path, mark):
    document = (CERTS.parent / "docs" / "collateral.md").read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ca_service.service.server.Server.run", lambda _server: sys.exit(0))
    monkeypatch.setattr("ca_service.collateral.kds.AMD_KDS", kds.url)
    kds.answers["/vcek/v1/Genoa/crl"] = Says(body=GENOA_CRL.read_bytes())
    vcek = VCEK.read_bytes()
    Path("vcek.der").write_bytes(vcek)
    Path("crl.der").write_bytes(CRL.read_bytes())
    Path("chain.pem").write_bytes((CERTS / "amd" / "milan-ask.pem").read_bytes())
    Path("table.bin").write_bytes(pack_table({CertKind.VCEK: vcek}))
    for line in commands_in(document, mark):
        program, *words = shlex.split(line.replace("https://mirror.example/kds", kds.url))
        files = [found for word in words for found in (sorted(Path().glob(word)) if "*" in word else [word])]
        done = here(*files, env={"VTPM_CA_DIR": str(ca)})
        assert (program, done.code) == ("vtpm-ca", 0), (line, done)
