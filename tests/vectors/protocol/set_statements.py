"""Runtime data of both profiles, and the grant."""

from dataclasses import replace

from fixed import (
    CLAIMS,
    IAT,
    KBS_KEY,
    KBS_KEY_256,
    P384,
    P521,
    RUNTIME_DATA,
    SECRET,
    SESSION_DATA,
    SESSION_KEY,
    STORE,
    TPM,
    VOLATILE,
    changed,
    grant,
    jwk,
    key,
    scalar,
)

from vtpm.wire.encoding import b64url, canonical
from vtpm.wire.grant import Grant, key_id
from vtpm.wire.runtime_data import (
    PROFILE,
    SESSION_PROFILE,
    KbsStatement,
    RuntimeData,
    SessionData,
    certify_qualifier,
    report_data,
)

VALID = {
    "persistent": RUNTIME_DATA,
    "with-receipt": replace(RUNTIME_DATA, store=replace(STORE, receipt="e30.e30.c2ln", root=bytes(48))),
    "volatile": replace(RUNTIME_DATA, store=VOLATILE),
    "one-ek-loaded": replace(RUNTIME_DATA, tpm=replace(TPM, eks=TPM.eks[:1], origin="loaded")),
    "p256-kbs": replace(RUNTIME_DATA, kbs=KbsStatement(jwk(KBS_KEY_256), grant(private=KBS_KEY_256))),
    "session": SESSION_DATA,
}

# name: (member to change, value, path of the error); `...` removes the member
CHANGES: dict[str, tuple[str, object, str]] = {
    "unknown-profile": ("profile", "svsm-vtpm-ca:2", "profile"),
    "unknown-member": ("note", "x", "note"),
    "no-aud": ("aud", ..., "aud"),
    "aud-not-ascii": ("aud", "cä", "aud"),
    "nonce-is-a-number": ("nonce", 1, "nonce"),
    "session-key-p384": ("session.jwk", jwk(KBS_KEY).members(), "session.jwk.crv"),
    "session-key-with-alg": ("session.jwk.alg", "ES256", "session.jwk.alg"),
    "session-key-off-curve": ("session.jwk.y", b64url(bytes(32)), "session.jwk"),
    "session-key-short-x": ("session.jwk.x", b64url(bytes(31)), "session.jwk.x"),
    "no-ek": ("tpm.ek", [], "tpm.ek"),
    "five-eks": ("tpm.ek", [TPM.eks[0].to_json()] * 5, "tpm.ek"),
    "ek-template-unknown": ("tpm.ek.0.template", "H-7", "tpm.ek[0].template"),
    "ek-pub-with-padding": ("tpm.ek.0.pub", b64url(TPM.eks[0].public) + "=", "tpm.ek[0].pub"),
    "ek-pub-standard-base64": ("tpm.ek.1.pub", "+/+/", "tpm.ek[1].pub"),
    "ek-pub-too-long-inside": ("tpm.ek.0.pub", b64url(TPM.eks[0].public + b"\0"), "tpm.ek[0].pub"),
    "iak-pub-cut": ("tpm.iak.pub", b64url(TPM.iak.public[:-1]), "tpm.iak.pub.unique.y"),
    "iak-is-a-list": ("tpm.iak", [TPM.iak.to_json()], "tpm.iak"),
    "idevid-without-template": ("tpm.idevid.template", ..., "tpm.idevid.template"),
    "manufacturer-upper-case": ("tpm.manufacturer", "49424D00", "tpm.manufacturer"),
    "firmware-8-digits": ("tpm.firmware", "20191023", "tpm.firmware"),
    "vendor-empty": ("tpm.vendor", "", "tpm.vendor"),
    "revision-dotted": ("tpm.spec.revision", "1.64", "tpm.spec.revision"),
    "level-leading-zero": ("tpm.spec.level", "00", "tpm.spec.level"),
    "origin-unknown": ("tpm.origin", "restored", "tpm.origin"),
    "kbs-key-p521": ("kbs.jwk", jwk(key("kbs/p521", P521)).members(), "kbs.jwk.crv"),
    "grant-not-compact": ("kbs.grant", "e30.e30", "kbs.grant"),
    "grant-null": ("kbs.grant", None, "kbs.grant"),
    "store-mode-unknown": ("store.mode", "ephemeral", "store.mode"),
    "store-format-unversioned": ("store.format", "cocoonfs", "store.format"),
    "store-no-salt": ("store.salt", "", "store.salt"),
    "store-salt-upper-case": ("store.salt", "AB", "store.salt"),
    "store-counter-number": ("store.counter", 7, "store.counter"),
    "store-counter-leading-zero": ("store.counter", "07", "store.counter"),
    "store-counter-129-bit": ("store.counter", str(2**128), "store.counter"),
    "store-root-31-bytes": ("store.root", "00" * 31, "store.root"),
    "store-key-id-31-bytes": ("store.key_id", b64url(bytes(31)), "store.key_id"),
    "store-key-id-not-canonical": ("store.key_id", "A" * 42 + "B", "store.key_id"),
    "store-receipt-null": ("store.receipt", None, "store.receipt"),
    "volatile-with-a-volume": ("store.mode", "volatile", "store.format"),
}
SESSION_CHANGES: dict[str, tuple[str, object, str]] = {
    "session-with-tpm": ("tpm", {}, "tpm"),
    "session-without-key-id": ("key_id", ..., "key_id"),
    "session-salt-empty": ("salt", "", "salt"),
}


# name: (text replaced once in the canonical bytes, replacement, path of the error)
SPELLINGS = {
    "space-before-a-member": ('{"aud"', '{ "aud"', ""),
    "newline-at-the-end": ("\x00", "\n", ""),
    "needless-escape": ("manufactured", "m\\u0061nufactured", ""),
    "member-twice": ('"origin":', '"origin":"loaded","origin":', "tpm.origin"),
    "member-twice-escaped": ('"origin":', '"\\u006frigin":"loaded","origin":', "tpm.origin"),
    "fraction": (f'"nonce":"{RUNTIME_DATA.nonce}"', '"nonce":1.5', "nonce"),
    "lone-surrogate": (RUNTIME_DATA.nonce, "\\ud800", ""),
    "above-16-KiB": ("\x00", " " * 16384, ""),
    "cut": ("}}\x00", "}", ""),
}


def runtime_data() -> dict[str, object]:
    """The file runtime_data.json."""
    invalid = [
        _invalid(case, data.canonical(), canonical(changed(data.to_json(), {member: value})), path)
        for data, changes in ((RUNTIME_DATA, CHANGES), (SESSION_DATA, SESSION_CHANGES))
        for case, (member, value, path) in changes.items()
    ]
    text = RUNTIME_DATA.canonical()
    for case, (old, new, path) in SPELLINGS.items():
        spoilt = (text + b"\x00").replace(old.encode(), new.encode(), 1).removesuffix(b"\x00")
        invalid.append(_invalid(case, text, spoilt, path))
    return {
        "about": "`text` is what arrives, byte for byte. `path` is where a reader must see the fault.",
        "profiles": {"main": PROFILE, "session": SESSION_PROFILE},
        "keys": {"session": scalar(SESSION_KEY), "kbs": scalar(KBS_KEY), "kbs-p256": scalar(KBS_KEY_256)},
        "valid": [_valid(case, data) for case, data in VALID.items()],
        "invalid": invalid,
    }


def _profile(data: bytes) -> str:
    return "session" if SESSION_PROFILE.encode() in data else "main"


def _valid(case: str, data: RuntimeData | SessionData) -> dict[str, object]:
    text = data.canonical()
    vector = {"name": case, "profile": _profile(text), "text": text.decode()}
    vector["report_data"] = report_data(text).hex()
    if isinstance(data, RuntimeData):
        vector["certify_extra_data"] = certify_qualifier(text).hex()
    return vector


def _invalid(case: str, origin: bytes, spoilt: bytes, path: str) -> dict[str, object]:
    if spoilt == origin:
        raise ValueError(f"the case {case} changes nothing")
    full = "evidence.runtime_data" + (f".{path}" if path else "")
    return {"name": case, "profile": _profile(origin), "text": spoilt.decode(), "path": full}


GRANTS = {
    "p384": (CLAIMS, KBS_KEY),
    "p256": (CLAIMS, KBS_KEY_256),
    "provisioned": (replace(CLAIMS, origin="provisioned"), KBS_KEY),
}
GENUINE = grant()
HEADER, PAYLOAD, SIGNATURE = GENUINE.split(".")
BAD_GRANTS = {
    "typ-jwt": (grant(header={"typ": "JWT"}), "header.typ"),
    "no-typ": (grant(header={"typ": ...}), "header.typ"),
    "alg-none": (grant(header={"alg": "none"}), "header.alg"),
    "alg-of-another-curve": (grant(header={"alg": "ES256"}), "header.alg"),
    "x5c": (grant(header={"x5c": []}), "header.x5c"),
    "kid": (grant(header={"kid": "1"}), "header.kid"),
    "crit": (grant(header={"crit": ["b64"]}), "header.crit"),
    "jwk-with-private-half": (grant(header={"jwk.d": "AA"}), "header.jwk.d"),
    "jwk-p521": (grant(header={"jwk": jwk(key("kbs/p521", P521)).members()}), "header.jwk.crv"),
    "claim-missing": (grant({"tee_jkt": ...}), "claims.tee_jkt"),
    "claim-unknown": (grant({"aud": "x"}), "claims.aud"),
    "exp-missing": (grant({"exp": ...}), "claims.exp"),
    "iat-as-text": (grant({"iat": "1"}), "claims.iat"),
    "nonce-base64url": (grant({"nonce": "_-8="}), "claims.nonce"),
    "nonce-without-padding": (grant({"nonce": "AA"}), "claims.nonce"),
    "resource-two-parts": (grant({"resource": "default/key"}), "claims.resource"),
    "resource-with-dot-segment": (grant({"resource": "default/../key"}), "claims.resource"),
    "resource-129-characters": (grant({"resource": "a/b/" + "c" * 125}), "claims.resource"),
    "origin-unknown": (grant({"origin": "generated"}), "claims.origin"),
    "report-id-upper-case": (grant({"report_id": "AB" * 32}), "claims.report_id"),
    "policy-31-bytes": (grant({"policy": "00" * 31}), "claims.policy"),
    "key-id-31-bytes": (grant({"key_id": b64url(bytes(31))}), "claims.key_id"),
    "two-parts": (f"{HEADER}.{PAYLOAD}", ""),
    "signature-cut": (GENUINE[:-4], "signature"),
    "signature-with-padding": (GENUINE + "=", "signature"),
    "claims-no-json": (f"{HEADER}.{b64url(b'{')}.{SIGNATURE}", "claims"),
    "claim-twice": (
        ".".join([HEADER, b64url(canonical(CLAIMS.to_json())[:-1] + b',"iat":1}'), SIGNATURE]),
        "claims.iat",
    ),
}
UNSIGNED = {
    "signature-of-other-claims": ".".join([HEADER, grant({"iat": IAT + 1}).split(".")[1], SIGNATURE]),
    "signature-by-another-key": grant(header={"jwk": jwk(key("kbs/other", P384)).members()}),
    "signature-zero": f"{HEADER}.{PAYLOAD}.{b64url(bytes(96))}",
}


def grants() -> dict[str, object]:
    """The file grant.json."""
    return {
        "about": "`invalid`: refused by form, at `path`. `unsigned`: well-formed, but not signed by its jwk.",
        "secret": SECRET.hex(),
        "key_id": key_id(SECRET),
        "valid": [
            {
                "name": case,
                "compact": (text := grant(claims.to_json(), private=private)),
                "claims": claims.to_json(),
                "alg": Grant.parse(text).alg,
                "jwk_thumbprint": jwk(private).thumbprint(),
            }
            for case, (claims, private) in GRANTS.items()
        ],
        "invalid": [
            {"name": case, "compact": text, "path": "grant" + (f".{path}" if path else "")}
            for case, (text, path) in BAD_GRANTS.items()
        ],
        "unsigned": [{"name": case, "compact": text} for case, text in UNSIGNED.items()],
    }
