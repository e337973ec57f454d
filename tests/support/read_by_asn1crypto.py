"""What `asn1crypto` reads in a certificate, a revocation list or an OCSP answer, as a plain table.

The tables are those of `read_by_cryptography`, made by a library that shares no code with the other one.
"""

from collections.abc import Callable, Mapping
from datetime import UTC
from typing import Any

from asn1crypto import algos, core, crl, keys, ocsp, x509

Fields = Mapping[str, object]

_HARDWARE_MODULE_NAME, _PERMANENT_IDENTIFIER = "1.3.6.1.5.5.7.8.4", "1.3.6.1.5.5.7.8.3"
_UNCOMPRESSED = 0x04


class _HardwareModule(core.Sequence):
    _fields = [("type", core.ObjectIdentifier), ("serial", core.OctetString)]  # noqa: RUF012 - asn1crypto's way


class _Permanent(core.Sequence):
    _fields = [("value", core.UTF8String), ("assigner", core.ObjectIdentifier)]  # noqa: RUF012


class _Specification(core.Sequence):
    _fields = [("family", core.UTF8String), ("level", core.Integer), ("revision", core.Integer)]  # noqa: RUF012


class _Specifications(core.SetOf):
    _child_spec = _Specification


class _Attribute(core.Sequence):
    _fields = [("type", core.ObjectIdentifier), ("values", _Specifications)]  # noqa: RUF012


class _Attributes(core.SequenceOf):
    _child_spec = _Attribute


class _Algorithm(core.Sequence):
    _fields = [("id", core.ObjectIdentifier), ("parameters", core.Any, {"optional": True})]  # noqa: RUF012


class _KeyInfo(core.Sequence):
    _fields = [("algorithm", _Algorithm), ("bits", core.OctetBitString)]  # noqa: RUF012


class _Members(core.SequenceOf):
    _child_spec = core.Any


def certificate(der: bytes) -> Fields:
    """Raises ValueError or TypeError for what asn1crypto cannot read."""
    read = x509.Certificate.load(der, strict=True)
    tbs = read["tbs_certificate"]
    return {
        "tbs": tbs.dump(),
        "signature": read["signature_value"].native,
        "algorithm": _algorithms(tbs["signature"], read["signature_algorithm"]),
        "version": {"v1": 1, "v2": 2, "v3": 3}[tbs["version"].native],
        "serial": tbs["serial_number"].native,
        "issuer": _name(tbs["issuer"]),
        "subject": _name(tbs["subject"]),
        "not before": _time(tbs["validity"]["not_before"]),
        "not after": _time(tbs["validity"]["not_after"]),
        **_key(tbs["subject_public_key_info"]),
        **_extensions(tbs["extensions"]),
    }


def revocation_list(der: bytes) -> Fields:
    """The same of a revocation list."""
    read = crl.CertificateList.load(der, strict=True)
    tbs = read["tbs_cert_list"]
    assert tbs["version"].native == "v2"
    return {
        "tbs": tbs.dump(),
        "signature": read["signature"].native,
        "algorithm": _algorithms(tbs["signature"], read["signature_algorithm"]),
        "issuer": _name(tbs["issuer"]),
        "this update": _time(tbs["this_update"]),
        "next update": _time(tbs["next_update"]),
        "revoked": tuple(
            (
                one["user_certificate"].native,
                _time(one["revocation_date"]),
                _extensions(one["crl_entry_extensions"]),
            )
            for one in tbs["revoked_certificates"]
        ),
        **_extensions(tbs["crl_extensions"]),
    }


def answer(der: bytes) -> Fields:
    """The same of an OCSP response that answers."""
    read = ocsp.OCSPResponse.load(der, strict=True)
    basic = read["response_bytes"]["response"].parsed
    tbs = basic["tbs_response_data"]
    singles = list(tbs["responses"])
    ids = [one["cert_id"] for one in singles]
    return {
        "status": int(read["response_status"]),
        "tbs": tbs.dump(),
        "signature": basic["signature"].native,
        "algorithm": basic["signature_algorithm"]["algorithm"].dotted,
        "responder": tbs["responder_id"].native,
        "produced at": tbs["produced_at"].native,
        "certificates": tuple(one.dump() for one in basic["certs"]),
        "about": tuple(
            (
                one["hash_algorithm"]["algorithm"].native,
                one["issuer_name_hash"].native,
                one["issuer_key_hash"].native,
                one["serial_number"].native,
            )
            for one in ids
        ),
        "verdicts": tuple(_verdict(one["cert_status"]) for one in singles),
        "updates": tuple((one["this_update"].native, one["next_update"].native) for one in singles),
        **_extensions(tbs["response_extensions"]),
    }


def _verdict(status: Any) -> object:
    if status.name != "revoked":
        return status.name, None, None
    return "revoked", status.chosen["revocation_time"].native, status.chosen["revocation_reason"].native


def _algorithms(inner: algos.SignedDigestAlgorithm, outer: algos.SignedDigestAlgorithm) -> object:
    """Ids of both, and the parameters of either that has any."""
    parameters = [one["parameters"].dump() for one in (inner, outer)]
    return inner["algorithm"].dotted, outer["algorithm"].dotted, parameters[0] or parameters[1]


def _time(choice: x509.Time) -> object:
    return choice.name, choice.native.astimezone(UTC)


def _name(name: x509.Name) -> object:
    return tuple(
        tuple((one["type"].dotted, _chosen(one["value"]).tag, one["value"].native) for one in rdn)
        for rdn in name.chosen
    )


def _chosen(value: Any) -> Any:
    return value.chosen if isinstance(value, core.Choice) else value


def _key(spki: keys.PublicKeyInfo) -> Fields:
    """Algorithm and parameters are read as they stand, and the numbers off the bits, whatever the algorithm is."""
    read = _KeyInfo.load(spki.dump(), strict=True)
    bits = read["bits"].native
    fields = {
        "key": read.dump(),
        "key algorithm": read["algorithm"]["id"].dotted,
        "key parameters": read["algorithm"]["parameters"].dump(),
    }
    if bits[0] == _UNCOMPRESSED:
        return fields | {"key numbers": keys.ECPointBitString(bits).to_coords()}
    numbers = keys.RSAPublicKey.load(bits, strict=True)
    return fields | {"key numbers": (numbers["modulus"].native, numbers["public_exponent"].native)}


def _extensions(found: Any) -> Fields:
    heads = tuple((one["extn_id"].dotted, one["critical"].native) for one in found)
    return {"extensions": heads} | {one["extn_id"].dotted: _value(one) for one in found}


def _value(extension: Any) -> object:
    """Octets, if there is no other form for the id."""
    octets = extension["extn_value"]
    read = _VALUES.get(extension["extn_id"].dotted)
    return bytes(octets) if read is None else read(octets)


def _parsed(read: Callable[[Any], object]) -> Callable[[Any], object]:
    """Of what asn1crypto knows by itself."""
    return lambda octets: read(octets.parsed)


def _specification(octets: Any) -> object:
    rows = _Attributes.load(bytes(octets), strict=True)
    return tuple((row["type"].dotted, *one.native.values()) for row in rows for one in row["values"])


def members(sequence: bytes) -> list[bytes]:
    """What stands in a SEQUENCE, element by element."""
    return [member.dump() for member in _Members.load(sequence, strict=True)]


def _provenance(octets: Any) -> object:
    return tuple(core.load(member, strict=True).native for member in members(bytes(octets)))


def _usage(value: Any) -> object:
    return frozenset("content_commitment" if bit == "non_repudiation" else bit for bit in value.native)


def _general(name: x509.GeneralName) -> object:
    if name.name == "uniform_resource_identifier":
        return "uri", name.native
    if name.name == "directory_name":
        return "name", _name(name.chosen)
    if name.name != "other_name":
        return name.name, name.dump()
    dotted, inner = name.chosen["type_id"].dotted, name.chosen["value"]
    if dotted == _HARDWARE_MODULE_NAME:
        module = inner.parse(_HardwareModule)
        return dotted, module["type"].dotted, module["serial"].native
    assert dotted == _PERMANENT_IDENTIFIER
    identifier = inner.parse(_Permanent)
    return dotted, identifier["value"].native, identifier["assigner"].dotted


def _generals(names: Any) -> object:
    return None if isinstance(names, core.Void) else tuple(_general(name) for name in names)


def _point(point: Any) -> object:
    where = point["distribution_point"]
    full = where.name == "full_name"
    return (
        _generals(where.chosen) if full else None,
        None if full else where.native,
        point["reasons"].native,
        _generals(point["crl_issuer"]),
    )


def _scope(value: Any) -> object:
    where = value["distribution_point"]
    names = None if isinstance(where, core.Void) else _generals(where.chosen)
    flags = ("only_contains_user_certs", "only_contains_ca_certs", "indirect_crl")
    flags = (*flags, "only_contains_attribute_certs")
    return names, tuple(value[flag].native for flag in flags), value["only_some_reasons"].native


_VALUES: dict[str, Callable[[Any], object]] = {
    "2.5.29.35": _parsed(
        lambda v: (
            v["key_identifier"].native,
            v["authority_cert_issuer"].native,
            v["authority_cert_serial_number"].native,
        )
    ),
    "2.5.29.14": _parsed(lambda v: v.native),
    "2.5.29.15": _parsed(_usage),
    "2.5.29.19": _parsed(lambda v: (v["ca"].native, v["path_len_constraint"].native)),
    "2.5.29.17": _parsed(_generals),
    "2.5.29.37": _parsed(lambda v: tuple(one.dotted for one in v)),
    "2.5.29.32": _parsed(
        lambda v: tuple((one["policy_identifier"].dotted, one["policy_qualifiers"].native) for one in v)
    ),
    "2.5.29.31": _parsed(lambda v: tuple(_point(one) for one in v)),
    "1.3.6.1.5.5.7.1.1": _parsed(
        lambda v: tuple((one["access_method"].dotted, _general(one["access_location"])) for one in v)
    ),
    "2.5.29.9": _specification,
    "1.2.840.113556.1.8000.2554.22.90.55.20305.39874.4691.1706394": _provenance,
    "2.5.29.20": _parsed(lambda v: v.native),
    "2.5.29.28": _parsed(_scope),
    "2.5.29.21": _parsed(lambda v: v.native),
    "1.3.6.1.5.5.7.48.1.2": _parsed(lambda v: v.native),
}
