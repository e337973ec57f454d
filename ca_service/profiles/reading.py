"""What both readers of the lint see in to-be-signed bytes, by parts that are known already.

A CA's certificates are alike in most of their names and extensions, and what such a part means is a function of its
bytes alone. So a draft says which parts its bytes are made of; both readers have to find the same parts; and a part
that both have read alone, and seen the same in, is known by its bytes from then on. Only agreement is remembered. For
whatever is of another form, or not read alike, there is no short way: both readers read the whole, and say what is
wrong.
"""

from datetime import datetime
from functools import lru_cache
from typing import Final, TypeVar

from ca_service.profiles import reader_asn1crypto as second
from ca_service.profiles import reader_cryptography as first
from ca_service.profiles.parts import Parts
from ca_service.profiles.structures import ECDSA_WITH_SHA384
from ca_service.profiles.view import CertificateView, ExtensionView, NameView

REMEMBERED: Final = 512
"""How many parts of each kind are remembered; each is part of a certificate of 2,048 bytes at most."""

_V3, _V3_DER = 3, bytes.fromhex("a003020102")

T = TypeVar("T")


def read_by_parts(tbs: bytes, parts: Parts) -> CertificateView | None:
    """Read a TBSCertificate.

    Args:
        tbs: its DER.
        parts: what it is said to be made of.

    Returns:
        What both readers see in it; None if one of them cannot read it, or sees anything else, such as other parts, or
        if it is not of version 3 with extensions, each once, to be signed by ECDSA with SHA-384.
    """
    try:
        return _read(tbs, parts)
    except ValueError:
        return None


def _read(tbs: bytes, parts: Parts) -> CertificateView:
    serial = _same(first.read_serial(tbs, parts), second.read_serial(tbs, parts))
    extensions = tuple(map(_extension, parts.extensions))
    if parts.version != _V3_DER or parts.algorithm != ECDSA_WITH_SHA384 or serial <= 0:
        raise ValueError("has another frame")
    not_before, not_after = _validity(parts.validity)
    view = CertificateView(
        version=_V3,
        serial=serial,
        signature_algorithm=parts.algorithm,
        issuer=_name(parts.issuer),
        not_before=not_before,
        not_after=not_after,
        subject=_name(parts.subject),
        spki=_same(first.read_spki(parts.spki), second.read_spki(parts.spki)),
        extensions=extensions,
    )
    if len(view.by_id) != len(extensions):
        raise ValueError("has an extension twice")
    return view


def _same(one: T, other: T) -> T:
    if one != other:
        raise ValueError("two parsers see different things")
    return one


@lru_cache(maxsize=REMEMBERED)
def _name(der: bytes) -> NameView:
    return _same(first.read_name(der), second.read_name(der))


@lru_cache(maxsize=REMEMBERED)
def _validity(der: bytes) -> tuple[datetime, datetime]:
    return _same(first.read_validity(der), second.read_validity(der))


@lru_cache(maxsize=REMEMBERED)
def _extension(der: bytes) -> ExtensionView:
    return _same(first.read_extension(der), second.read_extension(der))
