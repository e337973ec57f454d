"""OCSP requests are hostile input: read, or malformed, and nothing else."""

import pytest
from asn1crypto import core
from asn1crypto import ocsp as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import OCSPRequestBuilder, load_der_ocsp_request
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ca_service.judgment import BadRequest
from ca_service.status.ocsp import MAX_REQUEST, MOST_CERT_IDS, CertId, parse_request

SHA1, SHA256, SHA512 = "sha1", "sha256", "sha512"
SERIAL = 0x2A << 128 | 7


def cert_id(serial=SERIAL, digest=SHA1, *, name=b"n" * 20, key=b"k" * 20, parameters=True):
    algorithm = {"algorithm": digest} | ({"parameters": core.Null()} if parameters else {})
    return {
        "req_cert": {
            "hash_algorithm": algorithm,
            "issuer_name_hash": name,
            "issuer_key_hash": key,
            "serial_number": serial,
        }
    }


def extension(kind, value, *, critical=False):
    return {"extn_id": kind, "critical": critical, "extn_value": core.ParsableOctetString(value)}


def nonce(octets):
    return extension("nonce", core.OctetString(octets).dump())


def odd_nonce(value):
    """A request with a nonce that the other writer refuses to write."""
    der = request(cert_id(), extensions=[extension("1.3.6.1.5.5.7.48.1.99", value)])
    return der.replace(bytes.fromhex("2b0601050507300163"), bytes.fromhex("2b0601050507300102"))


def request(*singles, extensions=(), **tbs):
    members = {"request_list": list(singles)} | tbs
    if extensions:
        members["request_extensions"] = list(extensions)
    return asn1.OCSPRequest({"tbs_request": members}).dump()


def test_what_another_program_asks(ca):
    """One that `cryptography` has written, about a real issuer; its own reader reads it alike."""
    leaf, issuer = ca.ek.certificate, ca.root.certificate
    for algorithm in (hashes.SHA1(), hashes.SHA256()):  # noqa: S303 - what clients use
        builder = OCSPRequestBuilder().add_certificate(leaf, issuer, algorithm)
        der = (
            builder.add_extension(x509.OCSPNonce(b"0123456789abcdef"), critical=False)
            .build()
            .public_bytes(Encoding.DER)
        )
        read, other = parse_request(der), load_der_ocsp_request(der)
        assert read.nonce == b"0123456789abcdef"
        (one,) = read.cert_ids
        assert one.serial == other.serial_number == leaf.serial_number
        assert (one.name_hash, one.key_hash) == (other.issuer_name_hash, other.issuer_key_hash)
        assert one.der in der
        assert one.names(issuer)
        assert not one.names(ca.ek.certificate)
        assert not one.names(ca.devid.certificate)


def test_name_and_key_of_the_issuer_must_both_fit(ca):
    import hashlib  # noqa: PLC0415

    from ca_service.status.ocsp import _key_bits  # noqa: PLC0415

    issuer = ca.ek.certificate
    name = hashlib.sha256(issuer.subject.public_bytes()).digest()
    key = hashlib.sha256(_key_bits(issuer)).digest()
    assert CertId(SHA256, name, key, 1, b"").names(issuer)
    assert not CertId(SHA256, name, bytes(32), 1, b"").names(issuer)
    assert not CertId(SHA256, bytes(32), key, 1, b"").names(issuer)
    assert not CertId(SHA1, name, key, 1, b"").names(issuer)
    assert not CertId("", name, key, 1, b"").names(issuer)


@pytest.mark.parametrize("serial", [0, 1, -1, 127, 128, -128, -129, SERIAL, 2**160, -(2**160), 2**2000])
@pytest.mark.parametrize("parameters", [True, False])
def test_any_serial_number_is_repeated_as_it_came(serial, parameters):
    der = request(cert_id(serial, parameters=parameters), cert_id(5))
    first, second = parse_request(der).cert_ids
    assert (first.serial, second.serial) == (serial, 5)
    assert der.count(first.der) == 1


def test_a_hash_that_is_not_known_fits_nobody(ca):
    (one,) = parse_request(request(cert_id(digest=SHA512))).cert_ids
    assert one.digest == ""
    assert not one.names(ca.ek.certificate)


@pytest.mark.parametrize("size", [1, 16, 32, 33, 127, 128])
def test_a_nonce(size):
    assert parse_request(request(cert_id(), extensions=[nonce(bytes(size))])).nonce == bytes(size)


def test_what_is_not_critical_is_passed_over():
    others = [extension("1.2.4", b"\x30\x00"), extension("1.2.3", b"x")]
    single = cert_id() | {"single_request_extensions": [extension("1.2.3", b"\x30\x00")]}
    assert parse_request(request(single, extensions=others)).nonce is None
    # A nonce belongs to the whole request.
    single["single_request_extensions"] = [extension("1.3.6.1.5.5.7.48.1.2", b"\x04\x0212")]
    assert parse_request(request(single)).nonce is None


VERSION_1 = bytes.fromhex("a003020100")
GOOD = request(cert_id())


def put(after, what):
    """The request with some octets more within its TBSRequest; all lengths are short."""
    body = GOOD[4:]
    tbs = body[:after] + what + body[after:]
    return bytes((0x30, len(tbs) + 2, 0x30, len(tbs))) + tbs


MALFORMED = {
    "nothing": b"",
    "another thing": b"\x30\x00",
    "something behind it": GOOD + b"\x00",
    "cut": GOOD[:-1],
    "indefinite length": b"\x30\x80" + GOOD[2:] + bytes(2),
    "long form of a short length": b"\x30\x81" + GOOD[1:],
    "no nonce's octets": request(cert_id(), extensions=[nonce(b"")]),
    "a long nonce": request(cert_id(), extensions=[nonce(bytes(129))]),
    "a nonce that is no string": odd_nonce(b"\x02\x01\x01"),
    "a bare nonce": odd_nonce(b"12345678"),
    "a nonce with something behind it": odd_nonce(b"\x04\x01x\x00"),
    "a nonce whose length has a long form": odd_nonce(b"\x04\x81\x01x"),
    "two nonces": request(cert_id(), extensions=[nonce(b"1"), nonce(b"1")]),
    "critical": request(cert_id(), extensions=[extension("1.2.3", b"", critical=True)]),
    "critical of one": request(
        cert_id() | {"single_request_extensions": [extension("1.2.3", b"\x30\x00", critical=True)]}
    ),
    "nobody": request(),
    "too many": request(*[cert_id(i) for i in range(MOST_CERT_IDS + 1)]),
    "too large": request(cert_id(2 ** (8 * MAX_REQUEST))),
    "version 1 said": put(0, VERSION_1),
    "version 2": put(0, bytes.fromhex("a003020101")),
    "requestor": request(cert_id(), requestor_name=asn1.GeneralName("dns_name", "x")),
    "signed": asn1.OCSPRequest(
        {
            "tbs_request": {"request_list": [cert_id()]},
            "optional_signature": {
                "signature_algorithm": {"algorithm": "sha256_ecdsa"},
                "signature": core.OctetBitString(b"x"),
            },
        }
    ).dump(),
    "long serial": GOOD.replace(b"\x02\x11", b"\x02\x12\x00", 1).replace(
        GOOD[:10], bytes(x + 1 if i in (1, 3, 5, 7, 9) else x for i, x in enumerate(GOOD[:10])), 1
    ),
    "no integer": GOOD.replace(b"\x02\x11", b"\x04\x11", 1),
}


def test_the_changed_requests_start_from_a_good_one():
    assert parse_request(GOOD).cert_ids[0].serial == SERIAL
    assert put(0, b"") == GOOD


@pytest.mark.parametrize("der", MALFORMED.values(), ids=MALFORMED)
def test_it_is_malformed(der):
    with pytest.raises(BadRequest):
        parse_request(der)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
@example(GOOD)
def test_any_bytes_are_read_or_malformed(der):
    try:
        read = parse_request(der)
    except BadRequest:
        return
    assert all(one.der in der for one in read.cert_ids)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_a_changed_request_is_read_or_malformed(data):
    der = bytearray(request(cert_id(), cert_id(3, SHA256, parameters=False), extensions=[nonce(b"12345678")]))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(der) - 1))
        match data.draw(st.sampled_from(("set", "cut", "put"))):
            case "set":
                der[place] = data.draw(st.integers(0, 255))
            case "cut" if len(der) > 1:
                del der[place]
            case _:
                der.insert(place, data.draw(st.integers(0, 255)))
    try:
        read = parse_request(bytes(der))
    except BadRequest:
        return
    assert all(one.der in der for one in read.cert_ids)
    assert read.nonce is None or 1 <= len(read.nonce) <= 32


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-(2**170), 2**170), st.sampled_from((SHA1, SHA256)), st.binary(max_size=40)),
        min_size=1,
        max_size=MOST_CERT_IDS,
    ),
    st.none() | st.binary(min_size=1, max_size=32),
)
def test_all_that_a_second_writer_writes_is_read(asked, drawn):
    singles = [cert_id(serial, digest, name=name, key=name) for serial, digest, name in asked]
    der = request(*singles, extensions=[] if drawn is None else [nonce(drawn)])
    if len(der) > MAX_REQUEST:
        return
    read = parse_request(der)
    assert [(one.serial, one.digest, one.name_hash) for one in read.cert_ids] == asked
    assert read.nonce == drawn
