"""The TCG templates of EK, IAK and IDevID keys, as values.

EK: TCG EK Credential Profile 2.x, annex B. L-1 and L-2 are the low range, H-1 to H-6 the high range; left
out are H-5 (SM2) and H-7 (RSA-4096), which swtpm's TPM refuses. IAK and IDevID: TCG "TPM 2.0 Keys for
Device Identity and Attestation" 1.0, section 7.3. RSA-3072 with SHA-384 is swtpm's addition to that table
and has no TCG name, so it carries the project's own, ``R-3072``.

The `unique` field of the ECC identity templates is filled in three different ways by the implementations
in use, and each makes a different key. Ours puts the label into x and y, as rust-keylime does;
`Unique.X_ONLY` is swtpm's way.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum

from vtpm.wire import public_area
from vtpm.wire.errors import WireError
from vtpm.wire.lazy import cached_property
from vtpm.wire.policy_digests import (
    HASH_ALGORITHMS,
    iak_branches,
    iak_policy,
    idevid_branches,
    idevid_policy,
    policy_a,
    policy_b,
    policy_c,
)
from vtpm.wire.public_area import (
    PublicArea,
    Scheme,
    Symmetric,
    name,
    pack_public,
    parse_public,
    qualified_name,
)

__all__ = [
    "DEFAULT_TEMPLATES",
    "PublicArea",
    "Role",
    "Template",
    "Unique",
    "devid_branches",
    "differences",
    "iak_policy",
    "idevid_policy",
    "name",
    "parse_public",
    "policy_a",
    "policy_b",
    "policy_c",
    "qualified_name",
    "template",
    "templates",
]


class Role(StrEnum):
    """What a key of a vTPM is for."""

    EK = "ek"
    IAK = "iak"
    IDEVID = "idevid"


class Unique(Enum):
    """How the label of an ECC identity template is put into `unique`."""

    X_AND_Y = "x-and-y"
    X_ONLY = "x-only"


@dataclass(frozen=True)
class Template:
    """One TCG key template.

    Attributes:
        role: what the key is for.
        id: the template's name, for example ``H-3``.
        name_alg: "sha256", "sha384" or "sha512".
        kind: "rsa" or "ecc".
        bits: RSA modulus size, or 256, 384, 521 for the NIST curve.
        attributes: TPMA_OBJECT.
        policy: authPolicy.
        public: the TPMT_PUBLIC to hand to TPM2_CreatePrimary.
        nv_index: where the key's certificate is stored.
        persistent: the key's persistent handle.
    """

    role: Role
    id: str
    name_alg: str
    kind: str
    bits: int
    attributes: int
    policy: bytes
    public: bytes
    nv_index: int
    persistent: int

    @cached_property
    def area(self) -> PublicArea:
        """`public`, read."""
        return parse_public(self.public)


DEFAULT_TEMPLATES = {Role.EK: "L-1", Role.IAK: "H-3", Role.IDEVID: "H-3"}
"""What a TPM is manufactured with unless it is told otherwise."""

# TPMA_OBJECT (TPM 2.0 Library, Part 2, section 8.3)
_FIXED = 0x00000032  # fixedTPM, fixedParent, sensitiveDataOrigin
_USER_WITH_AUTH = 0x00000040
_ADMIN_WITH_POLICY = 0x00000080
_RESTRICTED = 0x00010000
_DECRYPT = 0x00020000
_SIGN = 0x00040000

_EK_LOW = _FIXED | _ADMIN_WITH_POLICY | _RESTRICTED | _DECRYPT
_EK_HIGH = _EK_LOW | _USER_WITH_AUTH
_IDEVID = _FIXED | _USER_WITH_AUTH | _ADMIN_WITH_POLICY | _SIGN
_IAK = _IDEVID | _RESTRICTED

_IDENTITY_LABEL = {Role.IAK: b"IAK", Role.IDEVID: b"IDEVID"}
_IDENTITY_NV_INDEX = {Role.IAK: 0x01C90100, Role.IDEVID: 0x01C90200}
_IDENTITY_HANDLE = {Role.IAK: 0x81020001, Role.IDEVID: 0x81020000}

# Each row: kind, bits, name_alg, NV index of the certificate, persistent handle.
_EK_TABLE = {
    "L-1": ("rsa", 2048, "sha256", 0x01C00002, 0x81010001),
    "L-2": ("ecc", 256, "sha256", 0x01C0000A, 0x81010002),
    "H-1": ("rsa", 2048, "sha256", 0x01C00012, 0x81010012),
    "H-2": ("ecc", 256, "sha256", 0x01C00014, 0x81010014),
    "H-3": ("ecc", 384, "sha384", 0x01C00016, 0x81010016),
    "H-4": ("ecc", 521, "sha512", 0x01C00018, 0x81010018),
    "H-6": ("rsa", 3072, "sha384", 0x01C0001C, 0x8101001C),
}

# Each row: kind, bits, name_alg.
_IDENTITY_TABLE = {
    "H-1": ("rsa", 2048, "sha256"),
    "H-2": ("ecc", 256, "sha256"),
    "H-3": ("ecc", 384, "sha384"),
    "H-4": ("ecc", 521, "sha512"),
    "R-3072": ("rsa", 3072, "sha384"),
}


def _ek(template_id: str) -> Template:
    kind, bits, name_alg, nv_index, persistent = _EK_TABLE[template_id]
    low = template_id.startswith("L-")
    attributes = _EK_LOW if low else _EK_HIGH
    policy = policy_a(name_alg) if low else policy_b(name_alg)
    part = bytes(bits // 8) if low else b""
    area = PublicArea(
        kind=kind,
        name_alg=name_alg,
        attributes=attributes,
        policy=policy,
        symmetric=Symmetric(public_area.ALG_AES, 128 if name_alg == "sha256" else 256, public_area.ALG_CFB),
        scheme=Scheme(),
        bits=bits,
        curve=public_area.CURVE_IDS[bits] if kind == "ecc" else 0,
        exponent=0,
        kdf=Scheme(),
        unique=(part,) if kind == "rsa" else (part, part),
    )
    return Template(
        Role.EK,
        template_id,
        name_alg,
        kind,
        bits,
        attributes,
        policy,
        pack_public(area),
        nv_index,
        persistent,
    )


def _identity(role: Role, template_id: str, unique: Unique = Unique.X_AND_Y) -> Template:
    kind, bits, name_alg = _IDENTITY_TABLE[template_id]
    attributes, policy = (
        (_IAK, iak_policy(name_alg)) if role is Role.IAK else (_IDEVID, idevid_policy(name_alg))
    )
    hash_algorithm = HASH_ALGORITHMS[name_alg]
    if kind == "ecc":
        scheme = Scheme(public_area.ALG_ECDSA, hash_algorithm)
    elif role is Role.IAK:
        scheme = Scheme(public_area.ALG_RSAPSS, hash_algorithm)
    else:
        scheme = Scheme()  # the caller of an RSA IDevID names the scheme at each signature
    label = _IDENTITY_LABEL[role]
    if kind == "rsa":
        parts: tuple[bytes, ...] = (label,)
    else:
        parts = (label, label if unique is Unique.X_AND_Y else b"")
    area = PublicArea(
        kind=kind,
        name_alg=name_alg,
        attributes=attributes,
        policy=policy,
        symmetric=Symmetric(),
        scheme=scheme,
        bits=bits,
        curve=public_area.CURVE_IDS[bits] if kind == "ecc" else 0,
        exponent=0,
        kdf=Scheme(),
        unique=parts,
    )
    return Template(
        role,
        template_id,
        name_alg,
        kind,
        bits,
        attributes,
        policy,
        pack_public(area),
        _IDENTITY_NV_INDEX[role],
        _IDENTITY_HANDLE[role],
    )


_TEMPLATES: dict[Role, dict[str, Template]] = {
    Role.EK: {i: _ek(i) for i in _EK_TABLE},
    Role.IAK: {i: _identity(Role.IAK, i) for i in _IDENTITY_TABLE},
    Role.IDEVID: {i: _identity(Role.IDEVID, i) for i in _IDENTITY_TABLE},
}


def template(role: Role, id: str, path: str = "template", *, unique: Unique = Unique.X_AND_Y) -> Template:  # noqa: A002 - it is the template's id
    """The template of a role by its id.

    Args:
        role: what the key is for.
        id: ``L-1``, ``L-2``, ``H-1`` to ``H-4``, ``H-6`` for an EK; ``H-1`` to ``H-4``, ``R-3072`` for
            the others.
        path: where `id` stood, for the error.
        unique: how an ECC identity key is derived; part of which key comes out, not of what is checked.

    Raises:
        WireError: there is no such template.
    """
    found = _TEMPLATES[role].get(id)
    if found is None:
        raise WireError(path, f"must be one of {', '.join(_TEMPLATES[role])} for an {role.value}")
    if unique is Unique.X_ONLY and role is not Role.EK:
        return _identity(role, id, unique)
    return found


def templates(role: Role) -> tuple[Template, ...]:
    """All templates of a role."""
    return tuple(_TEMPLATES[role].values())


def devid_branches(role: Role, name_alg: str) -> tuple[bytes, ...]:
    """The four digests that PolicyOR takes for an IAK or IDevID; see `policy_digests.idevid_branches`.

    Raises:
        ValueError: `role` is EK, which has no such policy.
    """
    if role is Role.IAK:
        return iak_branches(name_alg)
    if role is Role.IDEVID:
        return idevid_branches(name_alg)
    raise ValueError("only an IAK or IDevID has a policy of four branches")


def _fields(area: PublicArea) -> dict[str, object]:
    """The fields of a public area under their names in TPM 2.0 Library, Part 2, without `unique`."""
    return {
        "type": area.kind,
        "nameAlg": area.name_alg,
        "objectAttributes": area.attributes,
        "authPolicy": area.policy,
        "symmetric": area.symmetric,
        "scheme": area.scheme,
        "keyBits" if area.kind == "rsa" else "curveID": (area.bits, area.curve),
        "exponent": area.exponent,
        "kdf": area.kdf,
    }


def _differing_fields(actual: PublicArea, wanted: PublicArea) -> list[str]:
    actual_fields, wanted_fields = _fields(actual), _fields(wanted)
    return [
        field
        for field in wanted_fields | actual_fields
        if actual_fields.get(field) != wanted_fields.get(field)
    ]


def differences(public: bytes, template: Template) -> list[str]:
    """Names of the fields in which a key differs from its template; empty if it is an instance of it.

    `unique` holds the key itself and is free, but must have the length of the key size.

    Raises:
        WireError: `public` is no TPMT_PUBLIC.
    """
    actual, wanted = parse_public(public), template.area
    differing = [] if actual.frame == wanted.frame else _differing_fields(actual, wanted)
    if set(map(len, actual.unique)) != {(wanted.bits + 7) // 8}:
        differing.append("unique")
    return differing
