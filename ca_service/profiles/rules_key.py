"""Rules about the certified key and what it may be used for."""

import hashlib

from ca_service.profiles.model import CaContent, OcspContent
from ca_service.profiles.outline import Outline
from ca_service.profiles.rule import CAS, IDENTITIES, LintSubject, RuleBook, differs
from ca_service.profiles.view import BC, CP, EKU, KU, SKI, BasicConstraintsView, PoliciesView
from vtpm.wire.public_area import ECC_CURVES, PublicArea, parse_public

KEYS = RuleBook()

_RSA_EXPONENT = bytes.fromhex("0203010001")
"""65537, the last member of an RSAPublicKey; the head of its kind leaves room for three octets, and no others."""


@KEYS.rule("key")
def _key(s: LintSubject) -> str | None:
    if isinstance(s.content, CaContent | OcspContent):
        same = s.content.public_key == s.certified
    else:
        same = _is_key_of(parse_public(s.content.public, "public"), s)
    return None if same else "certifies another key than the one to be certified"


def _is_key_of(area: PublicArea, s: LintSubject) -> bool:
    curve = ECC_CURVES.get(area.curve)
    if curve is None:
        return s.certified == area.public_key()
    # The point in its one uncompressed form; a key made from its coordinates costs more than all other rules.
    point = b"\x04" + b"".join([part.rjust(curve.size, b"\0") for part in area.unique])
    return s.key == f"P-{curve.bits}" and s.key_bits == point


@KEYS.rule("key-kind")
def _key_kind(s: LintSubject) -> str | None:
    if isinstance(s.content, CaContent):
        return None if s.key == "P-384" else "must be P-384"
    if isinstance(s.content, OcspContent):
        return None if s.key == "P-256" else "must be P-256"
    if s.key.startswith("P-") or (s.key and s.key_bits.endswith(_RSA_EXPONENT)):
        return None
    return "must be RSA-2048 or RSA-3072 with exponent 65537, or on P-256, P-384 or P-521"


@KEYS.rule("subject-key-id")
def _subject_key_id(s: LintSubject) -> str | None:
    return differs("subjectKeyIdentifier", hashlib.sha256(s.key_bits).digest()[:20], s.value(SKI))


@KEYS.steady_rule("key-usage")
def _key_usage(s: Outline) -> str | None:
    if s.profile in CAS:
        wanted = {"key_cert_sign", "crl_sign"}
    elif s.profile != "ek":
        wanted = {"digital_signature"}
    else:
        wanted = {"key_encipherment" if s.key_kind.startswith("RSA") else "key_agreement"}
    return differs("keyUsage", frozenset(wanted), s.value(KU))


@KEYS.steady_rule("basic-constraints", "ek", "iak-webauthn", "ocsp", *CAS)
def _basic_constraints(s: Outline) -> str | None:
    wanted = {
        "ek": BasicConstraintsView(ca=False, path_length=None),
        "iak-webauthn": BasicConstraintsView(ca=False, path_length=None),
        "ocsp": BasicConstraintsView(ca=False, path_length=None),
        "root-ca": BasicConstraintsView(ca=True, path_length=1),
        "issuing-ca": BasicConstraintsView(ca=True, path_length=0),
    }[s.profile]
    return differs("basicConstraints", wanted, s.value(BC))


@KEYS.steady_rule("extended-key-usage", "ek", "iak", "iak-webauthn", "ocsp")
def _extended_key_usage(s: Outline) -> str | None:
    wanted = {"ek": "2.23.133.8.1", "ocsp": "1.3.6.1.5.5.7.3.9"}.get(s.profile, "2.23.133.8.3")
    return differs("extendedKeyUsage", (wanted,), s.value(EKU))


@KEYS.steady_rule("policies", *IDENTITIES)
def _policies(s: Outline) -> str | None:
    second = "2.23.133.11.1.2" if s.profile == "idevid" else "2.23.133.11.1.3"
    return differs(
        "certificatePolicies", PoliciesView(("2.23.133.11.1.1", second), qualified=False), s.value(CP)
    )
