"""What `cryptography` reads in a certificate, a revocation list or an OCSP answer, as a plain table.

`read_by_asn1crypto` makes the same tables, and shares nothing with this module but names: what both libraries read
alike, a third program will hardly read otherwise. The readers of the lint are not used here. What `cryptography` has no
class for goes through its `hazmat.asn1`, in the structures of `ca_service.profiles`.

Values are dotted ids, numbers, texts, octets and times; an attribute of a name is its type, the tag of its string, and
its text. What the library does not tell is worked out from what it insists on, and said so.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp

from ca_service.profiles import structures

Fields = Mapping[str, object]

_HARDWARE_MODULE_NAME, _PERMANENT_IDENTIFIER = "1.3.6.1.5.5.7.8.4", "1.3.6.1.5.5.7.8.3"
_PROVENANCE = "1.2.840.113556.1.8000.2554.22.90.55.20305.39874.4691.1706394"
_FIRST_GENERALIZED = 2050
_NULL = bytes.fromhex("0500")


def certificate(der: bytes) -> Fields:
    """Raises ValueError for what `cryptography` cannot read."""
    read = x509.load_der_x509_certificate(der)
    return {
        "tbs": read.tbs_certificate_bytes,
        "signature": read.signature,
        "algorithm": _algorithm(read),
        "version": int(read.version.value) + 1,
        "serial": read.serial_number,
        "issuer": _name(read.issuer),
        "subject": _name(read.subject),
        "not before": _time(read.not_valid_before_utc),
        "not after": _time(read.not_valid_after_utc),
        **_key(read),
        **_extensions(read.extensions),
    }


def revocation_list(der: bytes) -> Fields:
    """The same of a revocation list."""
    read = x509.load_der_x509_crl(der)
    assert read.next_update_utc is not None
    return {
        "tbs": read.tbs_certlist_bytes,
        "signature": read.signature,
        "algorithm": _algorithm(read),
        "issuer": _name(read.issuer),
        "this update": _time(read.last_update_utc),
        "next update": _time(read.next_update_utc),
        "revoked": tuple(
            (one.serial_number, _time(one.revocation_date_utc), _extensions(one.extensions)) for one in read
        ),
        **_extensions(read.extensions),
    }


def answer(der: bytes) -> Fields:
    """The same of an OCSP response that answers."""
    read = ocsp.load_der_ocsp_response(der)
    return {
        "status": int(read.response_status.value),
        "tbs": read.tbs_response_bytes,
        "signature": read.signature,
        "algorithm": read.signature_algorithm_oid.dotted_string,
        "responder": read.responder_key_hash,
        "produced at": read.produced_at_utc,
        "certificates": tuple(one.public_bytes(Encoding.DER) for one in read.certificates),
        "about": tuple(
            (
                one.hash_algorithm.name,
                one.issuer_name_hash,
                one.issuer_key_hash,
                one.serial_number,
            )
            for one in read.responses
        ),
        "verdicts": tuple(
            (
                one.certificate_status.name.lower(),
                one.revocation_time_utc,
                None if one.revocation_reason is None else one.revocation_reason.name,
            )
            for one in read.responses
        ),
        "updates": tuple((one.this_update_utc, one.next_update_utc) for one in read.responses),
        **_extensions(read.extensions),
    }


def _algorithm(read: x509.Certificate | x509.CertificateRevocationList) -> tuple[str, str, bytes]:
    """`cryptography` reads nothing whose inner algorithm is another than the outer one.

    Parameters it does not tell; it makes an `ECDSA` only if there are none.
    """
    parameters = read.signature_algorithm_parameters
    assert isinstance(parameters, ec.ECDSA)
    dotted = read.signature_algorithm_oid.dotted_string
    return dotted, dotted, b""


def _time(at: datetime) -> tuple[str, datetime]:
    """`cryptography` does not tell the type of a time; in the time before 2050 it reads no GeneralizedTime."""
    return "utc_time" if at.year < _FIRST_GENERALIZED else "general_time", at


def _name(name: x509.Name) -> object:
    return tuple(tuple((a.oid.dotted_string, a._type.value, a.value) for a in rdn) for rdn in name.rdns)


def _key(read: x509.Certificate) -> Fields:
    """`key` and the parameters are written anew, from what the library has understood.

    Only of RSA keys with NULL for parameters does it make plain RSA keys.
    """
    key = read.public_key()
    fields = {
        "key": key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "key algorithm": read.public_key_algorithm_oid.dotted_string,
    }
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return fields | {"key parameters": _NULL, "key numbers": (numbers.n, numbers.e)}
    assert isinstance(key, ec.EllipticCurvePublicKey)
    point, curve = key.public_numbers(), getattr(ec.EllipticCurveOID, key.curve.name.upper())
    return fields | {"key parameters": structures.encode(curve), "key numbers": (point.x, point.y)}


def _extensions(found: x509.Extensions) -> Fields:
    heads = tuple((one.oid.dotted_string, one.critical) for one in found)
    return {"extensions": heads} | {one.oid.dotted_string: _value(one) for one in found}


def _value(extension: x509.Extension[Any]) -> object:
    value = extension.value
    return _VALUES[extension.oid.dotted_string](value)


def _usage(value: x509.KeyUsage) -> object:
    names = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment"]
    names += ["key_agreement", "key_cert_sign", "crl_sign"]
    names += ["encipher_only", "decipher_only"] if value.key_agreement else []
    return frozenset(name for name in names if getattr(value, name))


def _general(name: x509.GeneralName) -> object:
    if isinstance(name, x509.UniformResourceIdentifier):
        return "uri", name.value
    if isinstance(name, x509.DirectoryName):
        return "name", _name(name.value)
    assert isinstance(name, x509.OtherName)
    dotted = name.type_id.dotted_string
    if dotted == _HARDWARE_MODULE_NAME:
        module = structures.decode(structures.HardwareModuleName, name.value)
        return dotted, module.hw_type.dotted_string, module.hw_serial_num
    assert dotted == _PERMANENT_IDENTIFIER
    identifier = structures.decode(structures.PermanentIdentifier, name.value)
    return dotted, identifier.identifier_value, identifier.assigner.dotted_string


def _generals(names: Any) -> object:
    return None if names is None else tuple(_general(name) for name in names)


def _point(point: x509.DistributionPoint) -> object:
    return _generals(point.full_name), point.relative_name, point.reasons, _generals(point.crl_issuer)


def _scope(value: x509.IssuingDistributionPoint) -> object:
    flags = (value.only_contains_user_certs, value.only_contains_ca_certs, value.indirect_crl)
    return _generals(value.full_name), (*flags, value.only_contains_attribute_certs), value.only_some_reasons


def _specification(value: x509.UnrecognizedExtension) -> object:
    attribute = structures.decode(structures.SubjectDirectoryAttributes, value.value).specification
    return tuple(
        (attribute.type.dotted_string, one.family, one.level, one.revision)
        for one in attribute.values.as_list()
    )


def _provenance(value: x509.UnrecognizedExtension) -> object:
    kinds = (
        structures.ProvenanceValue,
        structures.UngrantedProvenanceValue,
        structures.BriefProvenanceValue,
    )
    kind = kinds[value.value[value.value.index(b"\x02\x01") + 2] - 1]
    return tuple(_members(structures.decode(kind, value.value)))


def _members(value: Any) -> list[object]:
    """Of a structure, in their order."""
    return [getattr(value, name) for name in type(value).__annotations__]


_VALUES: dict[str, Callable[[Any], object]] = {
    "2.5.29.35": lambda v: (v.key_identifier, v.authority_cert_issuer, v.authority_cert_serial_number),
    "2.5.29.14": lambda v: v.digest,
    "2.5.29.15": _usage,
    "2.5.29.19": lambda v: (v.ca, v.path_length),
    "2.5.29.17": _generals,
    "2.5.29.37": lambda v: tuple(one.dotted_string for one in v),
    "2.5.29.32": lambda v: tuple((one.policy_identifier.dotted_string, one.policy_qualifiers) for one in v),
    "2.5.29.31": lambda v: tuple(_point(one) for one in v),
    "1.3.6.1.5.5.7.1.1": lambda v: tuple(
        (one.access_method.dotted_string, _general(one.access_location)) for one in v
    ),
    "1.3.6.1.5.5.7.48.1.5": lambda v: v.public_bytes(),
    "2.5.29.9": _specification,
    _PROVENANCE: _provenance,
    "2.5.29.20": lambda v: v.crl_number,
    "2.5.29.28": _scope,
    "2.5.29.21": lambda v: v.reason.name,
    "1.3.6.1.5.5.7.48.1.2": lambda v: v.nonce,
}
