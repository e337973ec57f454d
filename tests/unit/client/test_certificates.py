"""Certificates as they come through the host: the right ones, and everything else."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vtpm.client import check_certificates
from vtpm.errors import VtpmError
from vtpm.wire.public_area import pack_public, parse_public
from vtpm.wire.runtime_data import KeyStatement
from vtpm.wire.templates import Role, template


def statement(role, template_id):
    """A new key made from a template, outside any TPM."""
    area = parse_public(template(role, template_id).public, "template")
    if area.kind == "rsa":
        modulus = rsa.generate_private_key(65537, area.bits).public_key().public_numbers().n
        unique = (modulus.to_bytes(area.bits // 8, "big"),)
    else:
        curves = {256: ec.SECP256R1, 384: ec.SECP384R1, 521: ec.SECP521R1}
        point = ec.generate_private_key(curves[area.bits]()).public_key().public_numbers()
        unique = tuple(n.to_bytes((area.bits + 7) // 8, "big") for n in (point.x, point.y))
    return KeyStatement(template_id, pack_public(replace(area, unique=unique)))


@pytest.fixture(scope="session")
def keys():
    return {
        "eks": (statement(Role.EK, "L-1"), statement(Role.EK, "L-2")),
        "iak": statement(Role.IAK, "H-3"),
        "idevid": statement(Role.IDEVID, "H-3"),
    }


@pytest.fixture(scope="session")
def reply(authority, keys):
    return authority.certify(**keys)


@pytest.fixture(scope="session")
def strangers(authority):
    """Keys of another TPM with the same templates, and the CA's answer for them."""
    keys = {
        "eks": (statement(Role.EK, "L-1"), statement(Role.EK, "L-2")),
        "iak": statement(Role.IAK, "H-3"),
        "idevid": statement(Role.IDEVID, "H-3"),
    }
    return authority.certify(**keys)


def refused(reply, keys, rule):
    with pytest.raises(VtpmError) as refusal:
        check_certificates(reply, **keys)
    assert refusal.value.rule == rule
    assert refusal.value.exit_code == 1


def test_what_the_ca_answers_is_taken(reply, keys):
    check_certificates(reply, **keys)


# -- certificates.count ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 3])
def test_count(reply, keys, number):
    refused(replace(reply, ek=(reply.ek * 2)[:number]), keys, "certificates.count")


# -- certificates.size -----------------------------------------------------------------------------------------


def test_size_of_any(reply, keys):
    large = {
        "ek": (reply.ek[0], replace(reply.ek[1], certificate=bytes(2049))),
        "iak": replace(reply.iak, certificate=bytes(2049)),
        "idevid": replace(reply.idevid, certificate=bytes(2049)),
    }
    for role, entry in large.items():
        refused(replace(reply, **{role: entry}), keys, "certificates.size")


# -- certificates.key ------------------------------------------------------------------------------------------


def test_another_tpms_certificates(strangers, keys):
    refused(strangers, keys, "certificates.key")


@pytest.mark.parametrize("role", ["ek", "iak", "idevid"])
def test_another_tpms_certificate_among_ours(reply, strangers, keys, role):
    refused(replace(reply, **{role: getattr(strangers, role)}), keys, "certificates.key")


def test_the_second_eks_certificate_counts_too(reply, strangers, keys):
    refused(replace(reply, ek=(reply.ek[0], strangers.ek[1])), keys, "certificates.key")


def test_ours_in_another_order(reply, keys):
    refused(replace(reply, ek=reply.ek[::-1]), keys, "certificates.key")
    refused(replace(reply, iak=reply.idevid, idevid=reply.iak), keys, "certificates.key")


def test_another_templates_name(reply, keys):
    refused(replace(reply, iak=replace(reply.iak, template="H-2")), keys, "certificates.key")


def with_der(reply, der):
    return replace(reply, iak=replace(reply.iak, certificate=der))


P384 = bytes.fromhex("06052b81040022")
EC_KEY = bytes.fromhex("06072a8648ce3d0201")
VERSION_3 = bytes.fromhex("a003020102")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (P384, bytes.fromhex("06052b8104000a")),  # secp256k1
        (P384, bytes.fromhex("06052b8104007f")),  # no curve at all
        (EC_KEY, bytes.fromhex("06072a8648ce3d027f")),
        (VERSION_3, bytes.fromhex("a003020101")),
        (VERSION_3, bytes.fromhex("a00302017f")),
    ],
    ids=["curve", "unknown-curve", "unknown-key", "version-2", "version-128"],
)
def test_a_certificate_that_the_library_does_not_know(reply, keys, old, new):
    der = reply.iak.certificate
    assert old in der
    refused(with_der(reply, der.replace(old, new)), keys, "certificates.key")


@pytest.mark.parametrize("der", [b"\0", b"0\x80", b"0" * 2048, b"-----BEGIN CERTIFICATE-----\n"])
def test_no_certificate_at_all(reply, keys, der):
    refused(with_der(reply, der), keys, "certificates.key")


def test_trailing_bytes(reply, keys):
    refused(with_der(reply, reply.iak.certificate + b"\0"), keys, "certificates.key")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_the_host_makes_of_a_certificate_ends_in_an_answer(reply, keys, data):
    der = bytearray(reply.iak.certificate)
    for _ in range(data.draw(st.integers(1, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    rule = "none"
    try:
        check_certificates(with_der(reply, bytes(der)), **keys)
    except VtpmError as refusal:
        rule = refusal.rule
    assert rule in {"none", "certificates.key", "certificates.names-ek"}


# -- certificates.names-ek -------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [Role.IAK, Role.IDEVID])
def test_names_of_another_ek_certificate(authority, reply, keys, role):
    """The CA certifies our EK twice; the host mixes the two answers."""
    again = authority.certify(**keys)
    mixed = replace(reply, **{role.value: getattr(again, role.value)})
    refused(mixed, keys, "certificates.names-ek")
    refused(replace(reply, ek=again.ek), keys, "certificates.names-ek")


def test_the_first_ek_is_the_one_that_names(authority, reply, keys):
    second = authority.devid(
        Role.IAK, keys["iak"], ek_key=keys["eks"][1], ek_certificate=reply.ek[1].certificate
    )
    refused(replace(reply, iak=second), keys, "certificates.names-ek")


def bare(key, *extensions):
    """A certificate of a key with these extensions, and nothing that a CA would say."""
    signer = ec.generate_private_key(ec.SECP384R1())
    day = datetime(2026, 8, 1, tzinfo=UTC)
    name = x509.Name([])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(parse_public(key.public, "key").public_key())
        .serial_number(1)
        .not_valid_before(day)
        .not_valid_after(day + timedelta(days=1))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signer, hashes.SHA384()).public_bytes(Encoding.DER)


def other_name(der, oid="1.3.6.1.5.5.7.8.3"):
    return x509.SubjectAlternativeName([x509.OtherName(x509.ObjectIdentifier(oid), der)])


def names_of(certificate):
    """The subjectAltName that the CA put in."""
    return (
        x509.load_der_x509_certificate(certificate)
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value
    )


def permanent(names):
    return next(
        n.value for n in names.get_values_for_type(x509.OtherName) if n.type_id.dotted_string.endswith(".8.3")
    )


def test_the_permanent_identifier_alone_is_enough_to_name(reply, keys):
    der = bare(keys["iak"], other_name(permanent(names_of(reply.iak.certificate))))
    check_certificates(with_der(reply, der), **keys)


def test_names_that_are_missing_or_of_another_kind(reply, keys):
    genuine = permanent(names_of(reply.iak.certificate))
    assigner = bytes.fromhex("0605678105" + "0c01")
    assert assigner in genuine
    spoilt = [
        (),
        (x509.SubjectAlternativeName([x509.DNSName("example.org")]),),
        (other_name(b"\x05\x00"),),
        (other_name(genuine, oid="1.3.6.1.5.5.7.8.4"),),
        (other_name(genuine.replace(assigner, assigner[:-1] + b"\x02")),),
        (other_name(b"0\x03\x0c\x01a"),),
    ]
    for extensions in spoilt:
        refused(with_der(reply, bare(keys["iak"], *extensions)), keys, "certificates.names-ek")


def extended(key, *values):
    """A certificate with subjectAltNames of these raw contents."""
    placeholders = [
        x509.UnrecognizedExtension(x509.ObjectIdentifier(f"2.5.29.{100 + i}"), value)
        for i, value in enumerate(values)
    ]
    der = bare(key, *placeholders)
    for i in range(len(values)):
        der = der.replace(bytes([0x06, 3, 0x55, 0x1D, 100 + i]), bytes([0x06, 3, 0x55, 0x1D, 17]))
    return der


@pytest.mark.parametrize(
    "values",
    [
        (b"0\x02\x88\x00", b"0\x02\x88\x00"),  # the extension stands twice
        (b"0\x02\xa3\x00",),  # x400Address
        (b"0\x02\xa5\x00",),  # ediPartyName
        (b"0\x05",),
        (b"",),
    ],
    ids=["twice", "x400", "edi", "short", "empty"],
)
def test_names_that_the_library_does_not_read(reply, keys, values):
    der = extended(keys["iak"], *values)
    assert (
        x509.load_der_x509_certificate(der)
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    refused(with_der(reply, der), keys, "certificates.names-ek")
