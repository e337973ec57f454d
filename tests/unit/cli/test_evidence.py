"""`vtpm-ca evidence`: verdicts from files, on reports of real processors and of simulated ones."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from vtpm.snp import Platform, new_simulated_chain
from vtpm.wire.certtable import CertKind, pack_table
from vtpm.wire.report import REPORT_SIZE, Product

VECTORS = Path(__file__).parents[2] / "vectors" / "snp-evidence"
MANIFEST = json.loads((VECTORS / "manifest.json").read_text())
CERTS = Path(__file__).parents[3] / "certs"
REASONS = {"OK": "ok", "E_NO_LEAF": "snp.leaf-present", "E_CHAIN_SIG": "snp.chain"}
NOW = datetime(2026, 6, 1, tzinfo=UTC)


def _vector(name):
    return next(v for v in MANIFEST["vectors"] if v["id"] == name)


def _arguments(vector):
    files = vector["files"]
    words = ["--report", VECTORS / files["report"], "--at", vector["verify_at"]]
    return [*words, "--cert", VECTORS / files["vek"]] if "vek" in files else words


@pytest.fixture
def verify(here):
    """Function: exit code and JSON of `evidence verify`."""

    def run(*words):
        done = here("evidence", "verify", *words, "--json")
        assert done.err == ""
        return done.code, json.loads(done.out)

    return run


@pytest.mark.parametrize("vector", MANIFEST["vectors"], ids=[v["id"] for v in MANIFEST["vectors"]])
def test_every_vector_gets_its_verdict(verify, vector):
    code, result = verify(*_arguments(vector))
    assert (result["verdict"], result["reason"]) == (
        vector["expected"]["verdict"],
        REASONS[vector["expected"]["reason"]],
    )
    assert code == (0 if result["verdict"] == "VALID" else 1)
    assert result["report"]["version"] == vector["report_version"]
    if code == 0:
        assert result["product"] == vector["product"]
        assert result["certificates"]["root"]["subject"] == f"ARK-{vector['product']}"


def test_json_tells_the_report_the_certificates_and_the_tcb_as_numbers(verify):
    vector = _vector("milan-v2-vcek-reported-below-current")
    _, result = verify(*_arguments(vector))
    reported = bytes.fromhex(result["tcb"]["reported"]["raw"])
    assert result["tcb"]["reported"] == {
        "raw": reported.hex(),
        "bootloader": reported[0],
        "tee": reported[1],
        "snp": reported[6],
        "microcode": reported[7],
    }
    assert result["tcb"]["current"] != result["tcb"]["reported"]
    assert result["certificates"]["leaf"]["kind"] == "VCEK"
    assert result["certificates"]["leaf"]["tcb"] == result["tcb"]["reported"]
    assert result["certificates"]["authority"]["kind"] == "ASK"
    assert [check["rule"] for check in result["checks"]][-1] == "snp.signature"


def test_turins_tcb_has_five_numbers(verify):
    _, result = verify(*_arguments(_vector("turin-v5-vcek-aci")))
    assert result["tcb"]["launch"] == {
        "raw": "0101010400000051",
        "fmc": 1,
        "bootloader": 1,
        "tee": 1,
        "snp": 4,
        "microcode": 81,
    }


def test_pem_chain_and_certificate_table_do_as_well(verify, tmp_path):
    folder = VECTORS / "milan-v3-vcek-veraison-auxblob"
    code, _ = verify(
        "--report", folder / "report.bin", "--cert", folder / "auxblob.bin", "--at", "2026-11-23"
    )
    assert code == 0
    pem = x509.load_der_x509_certificate((folder / "vcek.der").read_bytes()).public_bytes(Encoding.PEM)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(
        b"text before\n"
        + pem
        + (CERTS / "amd/milan-ask.pem").read_bytes()
        + (CERTS / "amd/milan-ark.pem").read_bytes()
    )
    code, _ = verify("--report", folder / "report.bin", "--cert", chain, "--at", "2026-11-23T00:00:00Z")
    assert code == 0


@pytest.mark.parametrize(
    ("product", "code"), [("Milan", 0), ("milan", 0), ("Genoa", 1), ("siena", 1), ("", 0)]
)
def test_a_demanded_product(verify, product, code):
    found, result = verify(*_arguments(_vector("milan-v3-vcek-aci")), "--product", product)
    assert (found, result["reason"]) == (code, "snp.product" if code else "ok")


def test_bergamo_and_siena_are_genoa(verify):
    assert verify(*_arguments(_vector("siena-v5-vcek")), "--product", "Siena")[0] == 0


@pytest.mark.parametrize(("days", "code"), [("30", 1), ("3650", 0), ("", 0)])
def test_a_stale_list_matters_only_where_that_is_asked(verify, days, code):
    words = [*_arguments(_vector("milan-v5-vcek-gcp")), "--crl", VECTORS / "crl/ark-milan-2025-05-06.der"]
    found, result = verify(*words, "--crl-max-age", days)
    assert (found, result["reason"]) == (code, "snp.crl-age" if code else "ok")
    assert [crl["number"] for crl in result["crls"]] == [6]


def test_no_list_is_too_old_where_an_age_is_asked(verify):
    words = [*_arguments(_vector("milan-v5-vcek-gcp")), "--crl", VECTORS / "crl/ark-genoa-2022-10-31.der"]
    assert verify(*words)[0] == 0
    code, result = verify(*words, "--crl-max-age", "36500")
    assert (code, result["reason"], result["crls"]) == (1, "snp.crl-age", [])


def test_a_stale_list_still_revokes(verify):
    """AMD's first ASK for Genoa is revoked since 2022, which is known here without a list being given."""
    words = _arguments(_vector("genoa-v3-vcek-aci"))
    assert verify(*words, "--crl", VECTORS / "crl/ark-genoa-2022-10-31.der")[0] == 0
    code, result = verify(*words, "--cert", VECTORS / "roots/genoa-ask-revoked-020001.pem")
    assert (code, result["reason"]) == (1, "snp.revocation")
    assert result["crls"][0]["revoked"] == ["20001"]


def test_lists_that_do_not_count_are_named(verify, here):
    words = [*_arguments(_vector("genoa-v3-vcek-aci")), "--crl", VECTORS / "crl/ark-milan-2025-05-06.der"]
    assert [crl["issuer"] for crl in verify(*words)[1]["crls_unused"]] == ["ARK-Milan"]
    assert "not a list of this root" in here("evidence", "verify", *words).out


def test_a_list_beside_a_certificate_counts(verify, tmp_path):
    folder = VECTORS / "milan-v5-vcek-gcp"
    crl = x509.load_der_x509_crl((VECTORS / "crl/ark-milan-2025-05-06.der").read_bytes())
    leaf = x509.load_der_x509_certificate((folder / "vcek.der").read_bytes())
    both = tmp_path / "both.pem"
    both.write_bytes(leaf.public_bytes(Encoding.PEM) + b"a list:\n" + crl.public_bytes(Encoding.PEM))
    code, result = verify("--report", folder / "report.bin", "--cert", both, "--at", "2026-11-23")
    assert (code, [found["number"] for found in result["crls"]]) == (0, [6])
    code, _ = verify("--report", folder / "report.bin", "--cert", both, "--crl", both, "--at", "2026-11-23")
    assert code == 0


def test_a_certificate_does_not_steer_the_terminal(here, simulated, tmp_path, monkeypatch):
    # As on a terminal: elsewhere click takes escapes out by itself, and there would be nothing to see.
    monkeypatch.setattr("click.utils.should_strip_ansi", lambda *_, **__: False)
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "\x1b[2J\x1b[1mVALID  ok: ok\x1b[8m")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .sign(key, hashes.SHA384())
    )
    (tmp_path / "leaf").write_bytes(made.public_bytes(Encoding.DER))
    done = here("evidence", "verify", "--report", simulated / "report", "--cert", tmp_path / "leaf")
    assert done.code == 1
    assert "\x1b[1m" in done.out
    assert "\x1b[2J" not in done.out
    assert "\\x1b[2J" in done.out


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Files of a report under a root of its own: `report`, `vcek`, `ask`, `ark`, `table`."""
    folder = tmp_path_factory.mktemp("simulated")
    chain = new_simulated_chain(Product.GENOA, bits=2048)
    platform = Platform.made(b"\x05" * 32, product=Product.GENOA, chain=chain, clock=lambda: NOW)
    vm = platform.launch_measured(b"\x01" * 48)
    contents = {
        "report": vm.report(bytes(64)),
        "vcek": platform.vcek_certificate,
        "ask": chain.ask.public_bytes(Encoding.PEM),
        "ark": chain.ark.public_bytes(Encoding.PEM),
        "table": pack_table(
            {CertKind.VCEK: platform.vcek_certificate, CertKind.ASK: chain.ask.public_bytes(Encoding.DER)}
        ),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def test_an_unsafe_root_is_trusted_instead_of_amds_and_said(verify, here, simulated):
    words = ["--report", simulated / "report", "--at", "2026-06-02", "--cert", simulated / "vcek"]
    assert verify(*words, "--cert", simulated / "ask")[1]["reason"] == "snp.chain"
    words += ["--unsafe-root", simulated / "ark"]
    assert verify(*words)[1]["reason"] == "snp.chain"
    code, result = verify(*words, "--cert", simulated / "ask")
    assert (code, result["unsafe_root"]) == (0, str(simulated / "ark"))
    of_host = verify(*words[:4], "--cert", simulated / "table", *words[6:])
    assert of_host[1]["reason"] == "snp.chain"
    assert "UNSAFE" in here("evidence", "verify", *words, "--cert", simulated / "ask").out
    both = simulated / "cert_chain"
    both.write_bytes((simulated / "ask").read_bytes() + (simulated / "ark").read_bytes())
    assert verify(*words[:6], "--unsafe-root", both)[0] == 0
    genuine = _arguments(_vector("genoa-v3-vcek-aci"))
    assert verify(*genuine, "--unsafe-root", simulated / "ark")[1]["reason"] == "snp.chain"


@pytest.mark.parametrize("content", [b"", b"junk", os.urandom(REPORT_SIZE - 1), os.urandom(REPORT_SIZE + 1)])
def test_what_is_no_report_is_invalid(verify, here, tmp_path, content):
    path = tmp_path / "report"
    path.write_bytes(content)
    code, result = verify("--report", path)
    assert (code, result["verdict"], result["reason"]) == (1, "INVALID", "report-malformed")
    assert here("evidence", "show", path).code == 1


@pytest.mark.parametrize("length", [0, 100, REPORT_SIZE])
def test_random_bytes_are_invalid(verify, tmp_path, length):
    (tmp_path / "junk").write_bytes(os.urandom(length))
    vector = _vector("milan-v5-vcek-gcp")
    code, result = verify(*_arguments(vector), "--report", tmp_path / "junk")
    assert (code, result["verdict"]) == (1, "INVALID")
    for option, reason in (
        ("--cert", "certificate-malformed"),
        ("--crl", "crl-malformed"),
        ("--unsafe-root", "root-malformed"),
        ("--policy", "policy-invalid"),
    ):
        code, result = verify(*_arguments(vector), option, tmp_path / "junk")
        assert (code, result["reason"]) == (1, reason), option


@pytest.mark.parametrize("option", ["--report", "--cert", "--crl", "--unsafe-root", "--policy"])
def test_a_file_that_cannot_be_opened_is_a_usage_error(here, tmp_path, option):
    words = [*_arguments(_vector("milan-v5-vcek-gcp")), option, tmp_path / "none"]
    done = here("evidence", "verify", *words)
    assert (done.code, done.out) == (2, "")
    assert str(tmp_path / "none") in done.err


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--report", ""),
        ("--report", "x", "--product", "Rome"),
        ("--report", "x", "--at", "yesterday"),
        ("--report", "x", "--crl-max-age", "-1"),
        ("--report", "x", "--crl-max-age", "soon"),
        ("--report", "x", "--no-check"),
    ],
)
def test_usage(here, words):
    assert here("evidence", "verify", *words).code == 2


def test_empty_options_count_as_absent(verify):
    words = _arguments(_vector("milan-v5-vcek-gcp"))
    names = ("--cert", "--crl", "--product", "--at", "--unsafe-root", "--crl-max-age", "--policy")
    code, result = verify(*words, *(word for name in names for word in (name, "")))
    assert code == 0
    assert datetime.fromisoformat(result["at"]) > datetime.now(UTC) - timedelta(minutes=5)


def test_show_prints_a_report_and_does_not_judge_it(here):
    path = VECTORS / "milan-v3-nocert-coconut-svsm" / "report.bin"
    done = here("evidence", "show", path)
    assert done.code == 0
    assert "NOT VERIFIED" in done.out
    assert "Milan" in done.out
    shown = json.loads(here("evidence", "show", path, "--json").out)
    assert shown["report"]["vmpl"] == 0
    assert shown["tcb"]["reported"]["bootloader"] == bytes.fromhex(shown["tcb"]["reported"]["raw"])[0]


def test_show_of_version_2_knows_the_layout_but_not_the_product(here):
    shown = json.loads(here("evidence", "show", VECTORS / "genoa-v2-vcek-oak" / "report.bin", "--json").out)
    assert shown["product"] is None
    assert shown["report"]["cpuid"] is None
    assert shown["tcb"]["reported"]["microcode"] == 0x3E


POLICY = """schema = 1

[[launch]]
name = "gcp"
measurement = "{measurement}"
capabilities = []
products = ["Milan"]
platform = "any"
guest_policy = {{ require = [], forbid = [], either = ["smt", "single-socket", "cxl", "aes-256-xts", \
"rapl-disabled", "ciphertext-hiding", "page-swap-disabled"] }}
unconstrained = ["id-key", "author-key", "host-data", "family-id", "image-id", "guest-svn", "abi"]

[[platform]]
name = "any"
keys = ["VCEK"]
report_versions = [5]
provisional_firmware = false
platform_info = {{ require = ["alias-check"], forbid = [], either = ["smt", "tsme", "ecc", "rapl-disabled", \
"ciphertext-hiding", "tio", "other"] }}
{age}
unconstrained = ["chip", "launch-mitigations", "current-mitigations", {also}]

[[platform.tcb]]
product = "Milan"
firmware = "1.55.0"
reported = {{ bootloader = 4, tee = 0, snp = {snp}, microcode = 0 }}
committed = {{ bootloader = 4, tee = 0, snp = 0, microcode = 0 }}
launch = {{ bootloader = 4, tee = 0, snp = 0, microcode = 0 }}
"""


@pytest.fixture
def allowlist(tmp_path):
    """Function: the path of an allow-list for the measurement of the vector `milan-v5-vcek-gcp`."""

    def write(*, snp=20, age="", unsafe=""):
        measurement = (VECTORS / "milan-v5-vcek-gcp/report.bin").read_bytes()[0x90:0xC0].hex()
        text = POLICY.format(measurement=measurement, snp=snp, age=age, also="" if age else '"crl-age"')
        (tmp_path / "policy.toml").write_text(text + unsafe)
        return tmp_path / "policy.toml"

    return write


def test_the_policy_is_judged_as_well(verify, allowlist):
    words = _arguments(_vector("milan-v5-vcek-gcp"))
    code, result = verify(*words, "--policy", allowlist())
    assert (code, result["reason"]) == (0, "ok")
    rules = {check["rule"] for check in result["checks"]}
    assert {"snp.signature", "snp.vmpl", "launch.measurement", "platform.reported-tcb"} <= rules
    code, result = verify(*words, "--policy", allowlist(snp=255))
    assert (code, result["reason"]) == (1, "platform.reported-tcb")
    other = _arguments(_vector("milan-v3-vcek-aci"))
    assert verify(*other, "--policy", allowlist())[1]["reason"] == "launch.measurement"


def test_the_policy_wants_a_list_that_is_fresh(verify, allowlist):
    words = [*_arguments(_vector("milan-v5-vcek-gcp")), "--policy", allowlist(age="crl_max_age_days = 600")]
    assert verify(*words)[1]["reason"] == "platform.crl-age"
    words += ["--crl", VECTORS / "crl/ark-milan-2025-05-06.der"]
    assert verify(*words)[0] == 0
    words[words.index("--policy") + 1] = allowlist(age="crl_max_age_days = 500")
    assert verify(*words)[1]["reason"] == "platform.crl-age"


def test_what_a_ca_never_lets_go_holds_with_a_policy_too(verify, allowlist):
    words = _arguments(_vector("milan-v2-vcek-debug"))
    assert verify(*words)[0] == 0
    assert verify(*words, "--policy", allowlist())[1]["reason"] == "snp.debug"


def test_a_policy_gives_nothing_up_for_a_genuine_processor(verify, allowlist):
    unsafe = '\n[[unsafe]]\nname = "UnsafeAllowAnyMeasurement"\ngives_up = "everything"\n'
    words = [*_arguments(_vector("milan-v5-vcek-gcp")), "--policy", allowlist(unsafe=unsafe)]
    assert verify(*words)[1]["reason"] == "policy.mode"
