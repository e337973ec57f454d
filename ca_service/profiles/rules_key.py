"""Rules about the certified key and what it may be used for."""

import hashlib

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ca_service.profiles.model import CaContent, DevidContent, OcspContent
from ca_service.profiles.outline import Outline
from ca_service.profiles.rule import CAS, IDENTITIES, LintSubject, RuleBook, differs
from ca_service.profiles.view import BC, CP, EKU, KU, SKI, BasicConstraintsView, PoliciesView
from vtpm.wire.public_area import ECC_CURVES, PublicArea, parse_public

KEYS = RuleBook()

_CURVES = {"secp256r1", "secp384r1", "secp521r1"}
_RSA_BITS = {2048, 3072}
_RSA_EXPONENT = 65537


@KEYS.rule("key")
def _key(s: LintSubject) -> str | None:
    if isinstance(s.content, CaContent | OcspContent):
        same = s.content.public_key == s.certified
    else:
        same = _is_key_of(parse_public(s.content.public, "public"), s)
    return None if same else "certifies another key than the one to be certified"


def _is_key_of(area: PublicArea, s: LintSubject) -> bool:
    key, curve = s.certified, ECC_CURVES.get(area.curve)
    if curve is None:
        return key == area.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != curve.group.name:
        return False
    # The point in its one uncompressed form; a key made from its coordinates costs more than all other rules.
    return s.key_bits == b"\x04" + b"".join([part.rjust(curve.size, b"\0") for part in area.unique])


@KEYS.rule("key-kind")
def _key_kind(s: LintSubject) -> str | None:
    key = s.certified
    if isinstance(s.content, CaContent | OcspContent):
        curve, name = ("secp384r1", "P-384") if isinstance(s.content, CaContent) else ("secp256r1", "P-256")
        good = isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == curve
        return None if good else f"must be {name}"
    if isinstance(key, rsa.RSAPublicKey):
        good = key.key_size in _RSA_BITS and key.public_numbers().e == _RSA_EXPONENT
    else:
        good = isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES
    return None if good else "must be RSA-2048 or RSA-3072 with exponent 65537, or on P-256, P-384 or P-521"


@KEYS.rule("subject-key-id")
def _subject_key_id(s: LintSubject) -> str | None:
    return differs("subjectKeyIdentifier", hashlib.sha256(s.key_bits).digest()[:20], s.value(SKI))


@KEYS.rule("key-usage")
def _key_usage(s: LintSubject) -> str | None:
    if isinstance(s.content, CaContent):
        wanted = {"key_cert_sign", "crl_sign"}
    elif isinstance(s.content, DevidContent | OcspContent):
        wanted = {"digital_signature"}
    else:
        is_rsa = isinstance(s.certified, rsa.RSAPublicKey)
        wanted = {"key_encipherment"} if is_rsa else {"key_agreement"}
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
