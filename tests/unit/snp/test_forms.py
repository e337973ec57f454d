"""Leaves that deviate from AMD's form, read by openssl and asn1crypto."""

import subprocess
from datetime import UTC, datetime

import pytest
from asn1crypto import x509 as asn1_x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from vtpm.snp import LeafForm, SignatureForm, der
from vtpm.wire.report import Product

NOW = datetime(2026, 6, 1, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP384R1())
ARC = "1.3.6.1.4.1.3704.1."
HWID = bytes(range(64))


def leaf(chain, **changes):
    arguments = {"hwid": HWID, "tcb": bytes(range(8)), "not_before": NOW} | changes
    return chain.issue_vcek(KEY.public_key(), **arguments)


def extensions(data):
    tbs = asn1_x509.Certificate.load(data, strict=True)["tbs_certificate"]
    return [
        (e["extn_id"].dotted.removeprefix(ARC), e["extn_value"].contents, e["critical"].native)
        for e in tbs["extensions"]
    ]


def openssl(directory, chain, data):
    (directory / "leaf").write_bytes(data)
    (directory / "ark").write_bytes(chain.ark.public_bytes(Encoding.PEM))
    (directory / "ask").write_bytes(chain.ask.public_bytes(Encoding.PEM))

    def run(*command):
        done = subprocess.run(
            ["openssl", *command], cwd=directory, capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    when = str(int(NOW.timestamp()))
    said = run("verify", "-attime", when, "-CAfile", "ark", "-untrusted", "ask", "leaf")
    return said, run("x509", "-in", "leaf", "-noout", "-text")


@pytest.fixture(scope="module")
def chain(chains):
    return chains[Product.MILAN]


def test_nothing_deviates_by_default(chain):
    normal = extensions(leaf(chain))
    assert normal == extensions(leaf(chain, form=LeafForm()))
    assert len({oid for oid, _, _ in normal}) == len(normal) == 11
    assert not any(critical for _, _, critical in normal)


def test_other_encodings(chain):
    replaced = {ARC + "4": der.octet_string(HWID), ARC + "3.8": b"\x02\x02\x00\x07"}
    normal, made = extensions(leaf(chain)), extensions(leaf(chain, form=LeafForm(replaced=replaced)))
    assert [e for e in made if e not in normal] == [
        ("3.8", b"\x02\x02\x00\x07", False),
        ("4", b"\x04\x40" + HWID, False),
    ]
    assert len(made) == len(normal)


def test_short_form_of_replaced_is_stronger(chain):
    form = LeafForm(replaced={ARC + "2": b"\x16\x01A", ARC + "1": b"\x02\x01\x07"})
    made = dict(e[:2] for e in extensions(leaf(chain, replaced={ARC + "2": b"\x16\x01B"}, form=form)))
    assert (made["1"], made["2"]) == (b"\x02\x01\x07", b"\x16\x01B")


def test_missing_extension(chain):
    made = extensions(leaf(chain, replaced={ARC + "3.3": b""}))
    assert [oid for oid, _, _ in made] == ["1", "2", "3.1", "3.2", "3.4", "3.5", "3.6", "3.7", "3.8", "4"]


def test_duplicate_and_unknown_extensions(chain):
    added = ((ARC + "3.3", der.integer(0xFF)), ("2.5.29.19", der.sequence()))
    made = extensions(leaf(chain, form=LeafForm(added=added)))
    assert [e for e in made if e[0] == "3.3"] == [
        ("3.3", b"\x02\x01\x06", False),
        ("3.3", b"\x02\x02\x00\xff", False),
    ]
    assert made[-1] == ("2.5.29.19", b"\x30\x00", False)


def test_critical_extension(chain):
    made = extensions(leaf(chain, form=LeafForm(critical=frozenset({ARC + "4"}))))
    assert [oid for oid, _, critical in made if critical] == ["4"]


def test_openssl_refuses_a_critical_extension(chain, tmp_path):
    said, _ = openssl(tmp_path, chain, leaf(chain, form=LeafForm(critical=frozenset({ARC + "4"}))))
    assert "unhandled critical extension" in said


def test_serial_number(chain):
    made = asn1_x509.Certificate.load(leaf(chain, form=LeafForm(serial=0x1234)), strict=True)
    assert made.serial_number == 0x1234


@pytest.mark.parametrize(
    ("form", "lines"),
    [
        (SignatureForm.PSS_SHA384, ("rsassaPss", "Hash Algorithm: sha384", "mgf1 with sha384", "0x30")),
        (SignatureForm.PSS_SHA256, ("rsassaPss", "Hash Algorithm: sha256", "mgf1 with sha256", "0x20")),
        (SignatureForm.PSS_SHORT_SALT, ("rsassaPss", "Hash Algorithm: sha384", "mgf1 with sha384", "0x20")),
        (SignatureForm.PKCS1_SHA384, ("sha384WithRSAEncryption",)),
    ],
)
def test_signature_forms_verify_and_say_what_they_are(chain, tmp_path, form, lines):
    said, text = openssl(tmp_path, chain, leaf(chain, form=LeafForm(signature=form)))
    assert said == "leaf: OK\n"
    for line in lines:
        assert line in text


def test_self_signed(chain, tmp_path):
    said, text = openssl(tmp_path, chain, leaf(chain, form=LeafForm(signer=KEY, self_issued=True)))
    assert "self-signed certificate" in said
    assert "ecdsa-with-SHA384" in text
    own = asn1_x509.Certificate.load((tmp_path / "leaf").read_bytes(), strict=True)
    KEY.public_key().verify(
        own["signature_value"].native, own["tbs_certificate"].dump(), ec.ECDSA(hashes.SHA384())
    )


def test_a_strangers_signature_under_the_asks_name(chain, chains, tmp_path):
    forged = leaf(chain, form=LeafForm(signer=chains[Product.GENOA].ask_key))
    said, text = openssl(tmp_path, chain, forged)
    assert "signature failure" in said
    assert "CN = SEV-Test-Milan" in text


def test_signer_stays_out_of_repr():
    assert "Private" not in repr(LeafForm(signer=KEY))
