"""Reading revocation lists, and who signed them."""

import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from ca_service.evidence.snp import amd_roots, read_crl, read_crls
from ca_service.evidence.snp.crl import MAX_CRL
from vtpm.snp import SignatureForm
from vtpm.wire.report import Product

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture(scope="session")
def chain(chains):
    return chains[Product.MILAN]


def pem(der, label="X509 CRL"):
    return (
        f"-----BEGIN {label}-----\n".encode() + base64.encodebytes(der) + f"-----END {label}-----\n".encode()
    )


def test_fields(chain):
    later = NOW + timedelta(days=9)
    der = chain.crl([3, 0x10001], number=7, this_update=NOW, next_update=later)
    crl = read_crl(der)
    assert (crl.der, crl.number, crl.revoked) == (der, 7, {3, 0x10001})
    assert (crl.this_update, crl.next_update) == (NOW, later)
    assert (crl.issuer, crl.issuer_name) == (chain.ark.subject, "ARK-Test-Milan")
    assert crl.pss


def test_pem_means_the_same(chain):
    der = chain.crl([1], this_update=NOW)
    for content in (pem(der), b"\n" + pem(der) + b"\n \n", b"whose it is\n" + pem(der) + b"and more"):
        assert read_crl(content) == read_crl(der)


def test_several_lists_in_one_file(chain):
    ders = [chain.crl([number], this_update=NOW) for number in (1, 2)]
    wanted = tuple(read_crl(der) for der in ders)
    assert read_crls(b"text\n".join(map(pem, ders))) == wanted
    assert read_crls(pem(ders[0])) == read_crls(ders[0]) == wanted[:1]
    for wrong in (pem(ders[0]) + pem(b"0"), pem(ders[0]) + pem(ders[1])[:-20], b"", b"x"):
        assert read_crls(wrong) is None


def test_a_list_without_a_number_is_read(chain):
    crl = read_crl(chain.crl(number=None, this_update=NOW))
    assert (crl.number, crl.revoked) == (None, frozenset())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda der: der[:-1],
        lambda der: der + b"\0",
        lambda der: pem(der) * 2,
        lambda der: pem(der, "CERTIFICATE"),
        lambda der: pem(der)[:-20],
    ],
    ids=["cut", "tail", "two", "label", "open"],
)
def test_what_is_no_list(wrong, chain):
    assert read_crl(wrong(chain.crl(this_update=NOW))) is None


def test_nothing_is_no_list():
    assert read_crl(b"") is None
    assert read_crl(pem(b"")) is None


def test_a_certificate_is_no_list():
    assert read_crl(amd_roots()[0].ark.der) is None


def test_a_list_that_is_too_long_is_not_read(chain):
    oid = x509.ObjectIdentifier("1.2.3")

    def padded(size):
        return chain.crl(this_update=NOW, added=[(x509.UnrecognizedExtension(oid, bytes(size)), False)])

    around = len(padded(MAX_CRL)) - MAX_CRL
    fits, longer = padded(MAX_CRL - around), padded(MAX_CRL - around + 1)
    assert (len(fits), len(longer)) == (MAX_CRL, MAX_CRL + 1)
    assert read_crl(fits) is not None
    assert read_crl(longer) is None


@pytest.mark.parametrize(
    "extension",
    [
        x509.DeltaCRLIndicator(1),
        x509.IssuingDistributionPoint(
            full_name=[x509.UniformResourceIdentifier("http://crl.example/")],
            relative_name=None,
            only_contains_user_certs=True,
            only_contains_ca_certs=False,
            only_some_reasons=None,
            indirect_crl=False,
            only_contains_attribute_certs=False,
        ),
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"x"),
    ],
    ids=["delta", "partial", "unknown"],
)
def test_a_critical_extension_changes_what_a_list_means(extension, chain):
    assert read_crl(chain.crl(this_update=NOW, added=[(extension, True)])) is None
    assert read_crl(chain.crl(this_update=NOW, added=[(extension, False)])) is not None


def test_a_critical_extension_of_an_entry_too(chain, authority_of):
    ark = authority_of(chain.ark)
    for critical in (True, False):
        entry = (
            x509.RevokedCertificateBuilder()
            .serial_number(5)
            .revocation_date(NOW)
            .add_extension(x509.CRLReason(x509.ReasonFlags.key_compromise), critical=critical)
            .build()
        )
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(chain.ark.subject)
            .last_update(NOW)
            .next_update(NOW + timedelta(days=1))
            .add_revoked_certificate(entry)
        )
        form = SignatureForm.PSS_SHA384
        made = builder.sign(chain.ark_key, form.hash, rsa_padding=form.padding)
        crl = read_crl(made.public_bytes(Encoding.DER))
        assert (crl is None) is critical
    assert crl.revoked == {5}
    assert crl.signed_by(ark)


def test_who_signed_it(chain, chains, authority_of):
    crl = read_crl(chain.crl(this_update=NOW))
    assert crl.signed_by(authority_of(chain.ark))
    assert not crl.signed_by(authority_of(chain.ask))
    assert not crl.signed_by(authority_of(chains[Product.GENOA].ark))


def test_a_look_alike_did_not_sign_it(chain, authority_of, look_alike):
    crl = read_crl(chain.crl(this_update=NOW))
    forged = read_crl(look_alike.crl(this_update=NOW))
    assert look_alike.ark.subject == chain.ark.subject
    assert not crl.signed_by(authority_of(look_alike.ark))
    assert not forged.signed_by(authority_of(chain.ark))
    assert forged.signed_by(authority_of(look_alike.ark))


@pytest.mark.parametrize("form", list(SignatureForm))
def test_it_is_signed_like_amds(form, chain, authority_of):
    crl = read_crl(chain.crl(this_update=NOW, signature=form))
    assert crl.pss is (form is SignatureForm.PSS_SHA384)
    assert crl.signed_by(authority_of(chain.ark)) is crl.pss


@given(st.binary(max_size=200))
def test_reading_never_raises(content):
    assert read_crl(content) is None
    assert read_crl(pem(content)) is None


def test_a_signature_has_whole_octets(chain, authority_of):
    """Bits that do not count must be zero, or no reader takes them: so the last octet has to be even here."""
    made = (chain.crl([serial], this_update=NOW) for serial in range(1, 100))
    der, ark = next(der for der in made if der[-1] % 2 == 0), authority_of(chain.ark)
    assert read_crl(der).signed_by(ark)
    unused = der.rindex(b"\0" + x509.load_der_x509_crl(der).signature)
    assert not read_crl(der[:unused] + b"\1" + der[unused + 1 :]).signed_by(ark)


@given(data=st.data())
def test_reading_an_altered_list_never_raises(data, chain, authority_of):
    der, ark = MADE.setdefault("crl", chain.crl([5], this_update=NOW)), authority_of(chain.ark)
    content = bytearray(der)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    crl = read_crl(bytes(content))
    if crl is not None:
        assert isinstance(crl.issuer_name, str)
        assert crl.signed_by(ark) is (bytes(content) == der)


MADE = {}
