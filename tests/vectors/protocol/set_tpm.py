"""TPM key templates, policy digests, public areas and Names."""

from fixed import CURVES, RSA_EK, TPM, key, tpm_public

from vtpm.wire import templates
from vtpm.wire.public_area import PublicArea, parse_public
from vtpm.wire.templates import Role, devid_branches, name, qualified_name

EK, IAK = TPM.eks[0].public, TPM.iak.public


def _fields(area: PublicArea) -> dict[str, object]:
    return {
        "kind": area.kind,
        "name_alg": area.name_alg,
        "attributes": f"{area.attributes:08x}",
        "policy": area.policy.hex(),
        "symmetric": list(area.symmetric),
        "scheme": list(area.scheme),
        "bits": area.bits,
        "exponent": area.exponent,
        "unique": [part.hex() for part in area.unique],
    }


def _patched(public: bytes, offset: int, value: str) -> bytes:
    data = bytes.fromhex(value)
    return public[:offset] + data + public[offset + len(data) :]


INVALID = {
    "empty": (b"", "pub.type"),
    "keyed-hash": (_patched(IAK, 0, "0008"), "pub.type"),
    "nameAlg-sha1": (_patched(IAK, 2, "0004"), "pub.nameAlg"),
    "cut-in-attributes": (IAK[:7], "pub.objectAttributes"),
    "policy-longer-than-any-digest": (_patched(IAK, 8, "0041"), "pub.authPolicy"),
    "policy-longer-than-the-rest": (IAK[:20], "pub.authPolicy"),
    "camellia": (_patched(IAK, 58, "0026"), "pub.symmetric"),
    "ecdaa": (_patched(IAK, 60, "001a"), "pub.scheme"),
    "curve-sm2": (_patched(IAK, 64, "0020"), "pub.curveID"),
    "x-longer-than-the-field": (_patched(IAK, 68, "0031"), "pub.unique.x"),
    "one-byte-short": (IAK[:-1], "pub.unique.y"),
    "one-byte-more": (IAK + b"\0", "pub"),
    "tpm2b-public-with-size": (len(EK).to_bytes(2, "big") + EK, "pub.type"),
    "rsa-512": (_patched(EK, 50, "0200"), "pub.keyBits"),
    "modulus-longer-than-keyBits": (_patched(EK, 56, "0101") + b"\0", "pub.unique"),
}


def make() -> dict[str, object]:
    hashes = ("sha256", "sha384", "sha512")
    policies = ("policy_a", "policy_b", "policy_c", "idevid_policy", "iak_policy")
    return {
        "about": "Templates of 'Keys of the TPM'. Everything in hex. `invalid` names the field at fault.",
        "policies": [
            {"policy": policy, "hash": each, "digest": getattr(templates, policy)(each).hex()}
            for policy in policies
            for each in hashes
        ],
        "branches": [
            {"role": role, "hash": each, "digests": [d.hex() for d in devid_branches(role, each)]}
            for role in (Role.IDEVID, Role.IAK)
            for each in hashes
        ],
        "templates": [
            {
                "role": t.role,
                "id": t.id,
                "public": t.public.hex(),
                "nv_index": f"{t.nv_index:08x}",
                "persistent": f"{t.persistent:08x}",
            }
            for role in Role
            for t in templates.templates(role)
        ],
        "keys": {
            "about": "Private halves of the made-up TPM of all files: RSA as p and q, ECC as scalars.",
            "ek/L-1": [f"{n:x}" for n in (RSA_EK.private_numbers().p, RSA_EK.private_numbers().q)],
            **{
                f"{role}/{i}": f"{key(f'tpm/{role}/{i}', CURVES[384]).private_numbers().private_value:x}"
                for role, i in (("ek", "H-3"), ("iak", "H-3"), ("idevid", "H-3"))
            },
        },
        "valid": [
            {
                "name": f"{t.role}-{t.id}",
                "public": (public := tpm_public(t.role, t.id)).hex(),
                "fields": _fields(parse_public(public)),
                "tpm_name": name(public).hex(),
                "qualified_name": qualified_name(public).hex(),
            }
            for role in Role
            for t in templates.templates(role)
            if t.kind == "ecc" or (t.role, t.id) == (Role.EK, "L-1")
        ],
        "invalid": [
            {"name": case, "public": data.hex(), "path": path} for case, (data, path) in INVALID.items()
        ],
    }
