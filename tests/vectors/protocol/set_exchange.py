"""The key exchange with the KBS: REPORT_DATA, the sealed resource and its header, the frames, the relay."""

import base64
import json

from fixed import CLAIMS, EPHEMERAL_KEY, KBS_NONCE, P521, SECRET, TEE_KEY, grant, jwk, key, scalar, stream

from vtpm.wire.aproxy import RelayRequest, RelayResponse, frame
from vtpm.wire.encoding import b64url, canonical
from vtpm.wire.jwe import seal
from vtpm.wire.rcar import kbs_report_data, tee_pubkey

OTHER_KEY = key("attacker", P521)


def _entropy(label: str):
    return lambda size: stream(f"{label}/{size}", size)


def _sealed(label: str, secret: bytes = SECRET, ephemeral=EPHEMERAL_KEY, **extra: str) -> dict[str, object]:
    return seal(secret, jwk(TEE_KEY), ephemeral, extra=extra, entropy=_entropy(label)).to_json()


GENUINE = _sealed("jwe", kbs_grant=grant())
PLAIN = _sealed("jwe/plain")
HEADER = json.loads(base64.urlsafe_b64decode(str(PLAIN["protected"]) + "=="))


def _protected(**changes: object) -> str:
    header = {name: value for name, value in (HEADER | changes).items() if value is not ...}
    return b64url(json.dumps(header, separators=(",", ":")).encode())


HEADERS = {
    "alg-without-key-wrap": (_protected(alg="ECDH-ES"), "protected.alg"),
    "enc-a128gcm": (_protected(enc="A128GCM"), "protected.enc"),
    "no-epk": (_protected(epk=...), "protected.epk"),
    "epk-on-p384": (_protected(epk=HEADER["epk"] | {"crv": "P-384"}), "protected.epk.crv"),
    "epk-with-65-bytes": (_protected(epk=HEADER["epk"] | {"x": b64url(bytes(65))}), "protected.epk.x"),
    "epk-off-curve": (_protected(epk=HEADER["epk"] | {"y": b64url(bytes(66))}), "protected.epk"),
    "epk-with-kid": (_protected(epk=HEADER["epk"] | {"kid": "1"}), "protected.epk.kid"),
    "apu": (_protected(apu="AA"), "protected.apu"),
    "zip": (_protected(zip="DEF"), "protected.zip"),
    "crit": (_protected(crit=["kbs_grant"]), "protected.crit"),
    "grant-no-text": (_protected(kbs_grant=1), "protected.kbs_grant"),
    "with-padding": (str(PLAIN["protected"]) + "=", "protected"),
    "no-json": (b64url(b"{"), "protected"),
}


def _flipped(name: str) -> dict[str, object]:
    data = bytearray(base64.urlsafe_b64decode(str(GENUINE[name]) + "=="))
    data[0] ^= 1
    return GENUINE | {name: b64url(bytes(data))}


def _m3() -> dict[str, object]:
    """A genuine header and grant, but another secret sealed under another ephemeral key."""
    sealed = seal(
        stream("attacker secret", 32),
        jwk(TEE_KEY),
        OTHER_KEY,
        extra={},
        entropy=_entropy("m3"),
    )
    return sealed.to_json() | {"protected": GENUINE["protected"]}


def kbs() -> dict[str, object]:
    """The file kbs.json."""
    return {
        "about": "`unopened` must not open with the epk of the protected header, whatever the host says.",
        "keys": {"tee": scalar(TEE_KEY), "ephemeral": scalar(EPHEMERAL_KEY), "attacker": scalar(OTHER_KEY)},
        "report_data": {
            "nonce": KBS_NONCE,
            "tee_pubkey": tee_pubkey(jwk(TEE_KEY)),
            "canonical": canonical(
                {"additional-evidence": "", "nonce": KBS_NONCE, "tee-pubkey": tee_pubkey(jwk(TEE_KEY))}
            ).decode(),
            "report_data": kbs_report_data(KBS_NONCE, jwk(TEE_KEY)).hex(),
        },
        "valid": [
            {"name": "with-grant", "jwe": GENUINE, "secret": SECRET.hex(), "epk_jkt": CLAIMS.epk_jkt},
            {"name": "without-grant", "jwe": PLAIN, "secret": SECRET.hex(), "epk_jkt": CLAIMS.epk_jkt},
            {
                "name": "unknown-text-member",
                "jwe": _sealed("jwe/x", note="x"),
                "secret": SECRET.hex(),
                "epk_jkt": CLAIMS.epk_jkt,
            },
        ],
        "invalid_headers": [
            {"name": case, "protected": text, "path": path} for case, (text, path) in HEADERS.items()
        ],
        "unopened": [
            {"name": "own-epk-beside-a-genuine-header", "jwe": _m3(), "path": "decryption"},
            {"name": "ciphertext-changed", "jwe": _flipped("ciphertext"), "path": "decryption"},
            {"name": "tag-changed", "jwe": _flipped("tag"), "path": "decryption"},
            {"name": "key-changed", "jwe": _flipped("encrypted_key"), "path": "decryption"},
            {
                "name": "header-of-another-message",
                "jwe": GENUINE | {"protected": PLAIN["protected"]},
                "path": "decryption",
            },
        ],
    }


def _request(**changes: object) -> str:
    relay = {"method": "POST", "path": "/v1/nonces", "body": ""} | changes
    return json.dumps({"version": [0, 1, 0], "relay": relay}, separators=(",", ":"))


BODY = b'{"secrets":["AA"]}'
REQUESTS = {
    "nonce": RelayRequest("POST", "/v1/nonces"),
    "activation": RelayRequest("POST", "/v1/enrollments/e1/activation", BODY),
    "state": RelayRequest("GET", "/v1/enrollments/e1"),
}
BAD_REQUESTS = {
    "method-put": (_request(method="PUT"), "request.relay.method"),
    "path-with-query": (_request(path="/v1/nonces?x=1"), "request.relay.path"),
    "path-with-dot-segment": (_request(path="/v1/../ca"), "request.relay.path"),
    "path-with-escape": (_request(path="/v1/%2e%2e"), "request.relay.path"),
    "path-relative": (_request(path="v1/nonces"), "request.relay.path"),
    "body-base64url": (_request(body="-_8="), "request.relay.body"),
    "header-smuggled": (_request(headers={}), "request.relay.headers"),
    "version-0.2.0": (_request().replace("[0,1,0]", "[0,2,0]"), "request.version"),
    "version-false": (_request().replace("[0,1,0]", "[false,1,0]"), "request.version"),
}
BAD_RESPONSES = {
    "status-as-text": ('{"status":"200","body":""}', "relay_response.status"),
    "status-99": ('{"status":99,"body":""}', "relay_response.status"),
    "no-body": ('{"status":200}', "relay_response.body"),
    "headers": ('{"status":200,"body":"","headers":{}}', "relay_response.headers"),
}


def relay() -> dict[str, object]:
    """The file relay.json."""
    return {
        "about": "`frame` is what goes over the wire, in hex: eight bytes of length, then the JSON `text`.",
        "requests": [
            {
                "name": case,
                "method": request.method,
                "path": request.path,
                "body": request.body.hex(),
                "text": request.encode().decode(),
                "frame": frame(request.encode()).hex(),
            }
            for case, request in REQUESTS.items()
        ],
        "responses": [
            {
                "name": case,
                "status": response.status,
                "body": response.body.hex(),
                "text": response.encode().decode(),
            }
            for case, response in (
                ("created", RelayResponse(201, b"{}")),
                ("host-could-not-reach-the-ca", RelayResponse(0)),
            )
        ],
        "invalid_requests": [{"name": n, "text": t, "error": p} for n, (t, p) in BAD_REQUESTS.items()],
        "invalid_responses": [{"name": n, "text": t, "error": p} for n, (t, p) in BAD_RESPONSES.items()],
        "invalid_frame_headers": [
            {"name": "above-1-MiB", "header": (2**20 + 1).to_bytes(8, "little").hex(), "error": "frame"},
            {"name": "big-endian", "header": (64).to_bytes(8, "big").hex(), "error": "frame"},
            {"name": "seven-bytes", "header": "40000000000000", "error": "frame"},
        ],
    }
