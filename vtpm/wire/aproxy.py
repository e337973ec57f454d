"""The messages between an SVSM and the proxy on its host: libaproxy 0.1.0, and the relay that we add to it.

A frame is an 8-byte little-endian length and that many bytes of JSON; byte strings are standard base64 with
padding. The relay lets an SVSM, which has no network, reach the CA: an HTTP request and its answer in the
same frames.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from vtpm.wire.certtable import MAX_TABLE
from vtpm.wire.encoding import Members, b64std, parse_json
from vtpm.wire.errors import WireError
from vtpm.wire.jwk import EcJwk
from vtpm.wire.report import REPORT_SIZE

MAX_FRAME: Final = 1 << 20
"""Largest payload of a frame in bytes; upstream has no bound, so a peer can make it allocate anything."""

HEADER_SIZE: Final = 8
"""Bytes before each payload."""

CHALLENGE: Final = "Challenge"
"""Hash parameter: the challenge bytes."""

EC_PUBLIC_KEY_BYTES: Final = "EcPublicKeyBytes"
"""Hash parameter: x and y of the SVSM's key, 66 bytes each."""

_VERSION: Final = [0, 1, 0]
_COORDINATE: Final = 66
_MAX_PARAMS: Final = 16
_MAX_TOKEN: Final = 64 * 1024
_PATH: Final = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~-]+)+\Z")
_MAX_PATH: Final = 512
_STATUS: Final = (100, 599)


def frame(payload: bytes) -> bytes:
    """The payload with its length in front.

    Raises:
        WireError: the payload is larger than `MAX_FRAME`.
    """
    if len(payload) > MAX_FRAME:
        raise WireError("frame", f"must be at most {MAX_FRAME} bytes, is {len(payload)}")
    return len(payload).to_bytes(HEADER_SIZE, "little") + payload


def frame_length(header: bytes) -> int:
    """How many bytes of payload follow an 8-byte header.

    Raises:
        WireError: the header has another size, or announces more than `MAX_FRAME`.
    """
    if len(header) != HEADER_SIZE:
        raise WireError("frame", f"the header must be {HEADER_SIZE} bytes, is {len(header)}")
    length = int.from_bytes(header, "little")
    if length > MAX_FRAME:
        raise WireError("frame", f"must be at most {MAX_FRAME} bytes, is {length}")
    return length


def _encode(value: dict[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _parse(data: bytes, name: str) -> Members:
    return Members(parse_json(data, name, most=MAX_FRAME), name)


def _check_version(members: Members) -> None:
    version = [value for value, _ in members.array("version", 3, 3)]
    # In Python False == 0; on the wire it is not.
    if version != _VERSION or any(isinstance(value, bool) for value in version):
        raise WireError(members.at("version"), "must be 0.1.0")


@dataclass(frozen=True)
class NegotiationRequest:
    """Opens a session: which kind of processor the SVSM runs on."""

    tee: str = "snp"

    def encode(self) -> bytes:
        """The JSON bytes."""
        return _encode({"version": _VERSION, "tee": self.tee})

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the JSON bytes; raises `WireError`."""
        return cls._read(_parse(data, "negotiation_request"))

    @classmethod
    def _read(cls, members: Members) -> Self:
        _check_version(members)
        tee = members.one_of("tee", ("snp",))
        members.end()
        return cls(tee)


@dataclass(frozen=True)
class NegotiationResponse:
    """The KBS's challenge, and the recipe of the report data that today's SVSM follows.

    Attributes:
        challenge: the bytes of the KBS's nonce. They pass through the host, so nothing about them is certain.
        params: `CHALLENGE` and `EC_PUBLIC_KEY_BYTES`, in the host's order and number. Only
            `legacy_report_data` heeds them.
    """

    challenge: bytes
    params: tuple[str, ...] = (EC_PUBLIC_KEY_BYTES, CHALLENGE)

    def encode(self) -> bytes:
        """The JSON bytes."""
        return _encode({"challenge": b64std(self.challenge), "params": list(self.params)})

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the JSON bytes; raises `WireError`."""
        members = _parse(data, "negotiation_response")
        challenge = members.b64std("challenge", most=MAX_FRAME)
        params: list[str] = []
        for value, path in members.array("params", 0, _MAX_PARAMS):
            if value not in (CHALLENGE, EC_PUBLIC_KEY_BYTES):
                raise WireError(path, f"must be {CHALLENGE} or {EC_PUBLIC_KEY_BYTES}")
            params.append(str(value))
        members.end()
        return cls(challenge, tuple(params))


@dataclass(frozen=True)
class AttestationRequest:
    """The SVSM's evidence.

    Attributes:
        report: 1184 bytes.
        challenge: the challenge of the negotiation, echoed.
        key: the P-521 key that the secret is to be encrypted to.
        certs: certificate table from the hypervisor, if the SVSM asked for one.
    """

    report: bytes
    challenge: bytes
    key: EcJwk
    certs: bytes | None = None

    def encode(self) -> bytes:
        """The JSON bytes."""
        snp = {"report": b64std(self.report)}
        if self.certs is not None:
            snp["certs_buf"] = b64std(self.certs)
        key = {"x": b64std(self.key.x), "y": b64std(self.key.y)}
        return _encode(
            {"tee": "snp", "evidence": {"Snp": snp}, "challenge": b64std(self.challenge), "key": key}
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the JSON bytes.

        Raises:
            WireError: another form, or a key that is no point of P-521.
        """
        members = _parse(data, "attestation_request")
        members.one_of("tee", ("snp",))
        evidence = members.members("evidence")
        snp = evidence.members("Snp")
        report = snp.b64std("report", size=REPORT_SIZE)
        certs = snp.b64std("certs_buf", most=MAX_TABLE) if snp.has("certs_buf") else None
        snp.end()
        evidence.end()
        challenge = members.b64std("challenge", most=MAX_FRAME)
        x, y = _point(members.members("key"))
        members.end()
        key = EcJwk("P-521", x, y)
        try:
            key.public_key()
        except ValueError as error:
            raise WireError("attestation_request.key", "the point is not on P-521") from error
        return cls(report, challenge, key, certs)


def _point(members: Members) -> tuple[bytes, bytes]:
    x = members.b64std("x", size=_COORDINATE)
    y = members.b64std("y", size=_COORDINATE)
    members.end()
    return x, y


@dataclass(frozen=True)
class Decryption:
    """What the SVSM needs to open the secret, as the host copied it out of the KBS's JWE.

    Attributes:
        epk: x and y, 66 bytes each, **as the host states them**: a copy that nothing authenticates. The key
            to use is the one within `aad`.
        wrapped_cek: the JWE encrypted key.
        aad: ASCII of the base64url protected header.
        iv: 12 bytes in a genuine answer; lengths are checked when opening.
        tag: 16 bytes, likewise.
    """

    epk: tuple[bytes, bytes]
    wrapped_cek: bytes
    aad: bytes
    iv: bytes
    tag: bytes


@dataclass(frozen=True)
class AttestationResponse:
    """What the KBS answered, through the host.

    Attributes:
        success: False is the whole answer to a refused attestation.
        secret: the JWE ciphertext.
        decryption: how to open `secret`.
        token: the attestation token (JWT). Today's SVSM drops it; ours shows it to the CA.
    """

    success: bool
    secret: bytes | None = None
    decryption: Decryption | None = None
    token: str | None = field(default=None, repr=False)

    def encode(self) -> bytes:
        """The JSON bytes."""
        value: dict[str, object] = {"success": self.success}
        if self.secret is not None:
            value["secret"] = b64std(self.secret)
        value["decryption"] = None
        if self.decryption is not None:
            x, y = self.decryption.epk
            value["decryption"] = {
                "epk": {"x": b64std(x), "y": b64std(y)},
                "wrapped_cek": b64std(self.decryption.wrapped_cek),
                "aad": b64std(self.decryption.aad),
                "iv": b64std(self.decryption.iv),
                "tag": b64std(self.decryption.tag),
            }
        value["token"] = None if self.token is None else {"Jwt": self.token}
        return _encode(value)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the JSON bytes; a CWT token is refused, as nothing here issues one.

        Raises:
            WireError: another form.
        """
        members = _parse(data, "attestation_response")
        success = members.boolean("success")
        secret = members.b64std("secret", most=MAX_FRAME) if members.has("secret") else None
        decryption = None
        # Upstream writes null for both, and reads a missing member as null.
        if members.has("decryption") and members.value("decryption") is not None:
            part = members.members("decryption")
            decryption = Decryption(
                epk=_point(part.members("epk")),
                wrapped_cek=part.b64std("wrapped_cek", most=MAX_FRAME),
                aad=part.b64std("aad", most=MAX_FRAME),
                iv=part.b64std("iv", most=MAX_FRAME),
                tag=part.b64std("tag", most=MAX_FRAME),
            )
            part.end()
        token = None
        if members.has("token") and members.value("token") is not None:
            part = members.members("token")
            token = part.text("Jwt", most=_MAX_TOKEN)
            part.end()
        members.end()
        return cls(success, secret, decryption, token)


@dataclass(frozen=True)
class RelayRequest:
    """An HTTP request that the host is to make for the SVSM.

    Attributes:
        method: GET or POST.
        path: absolute path of plain segments: no query, no escapes, no dot segments, so that no two readers
            of it differ.
        body: empty when there is none.
    """

    method: str
    path: str
    body: bytes = b""

    def encode(self) -> bytes:
        """The JSON bytes."""
        relay = {"method": self.method, "path": self.path, "body": b64std(self.body)}
        return _encode({"version": _VERSION, "relay": relay})

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the JSON bytes; raises `WireError`. Which paths are forwarded is for the host to rule."""
        return cls._read(_parse(data, "relay_request"))

    @classmethod
    def _read(cls, members: Members) -> Self:
        _check_version(members)
        relay = members.members("relay")
        method = relay.one_of("method", ("GET", "POST"))
        path = relay.text("path", most=_MAX_PATH)
        if not _PATH.match(path):
            raise WireError(relay.at("path"), "must be an absolute path of plain segments")
        body = relay.b64std("body", most=MAX_FRAME)
        relay.end()
        members.end()
        return cls(method, path, body)


@dataclass(frozen=True)
class RelayResponse:
    """The answer to a `RelayRequest`.

    Attributes:
        status: HTTP status; 0 when the host could not reach the CA or would not ask it.
        body: the body as received.
    """

    status: int
    body: bytes = b""

    def encode(self) -> bytes:
        """The JSON bytes."""
        return _encode({"status": self.status, "body": b64std(self.body)})

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the JSON bytes; raises `WireError`."""
        members = _parse(data, "relay_response")
        status = members.integer("status", 0, _STATUS[1])
        if 0 < status < _STATUS[0]:
            raise WireError(members.at("status"), "must be 0 or an HTTP status")
        body = members.b64std("body", most=MAX_FRAME)
        members.end()
        return cls(status, body)


def parse_first(data: bytes) -> NegotiationRequest | RelayRequest:
    """Read what a host sees first on a connection.

    Raises:
        WireError: neither a negotiation nor a relay request.
    """
    members = _parse(data, "request")
    if members.has("relay"):
        return RelayRequest._read(members)  # noqa: SLF001 - same module
    return NegotiationRequest._read(members)  # noqa: SLF001 - same module


def legacy_report_data(params: Sequence[str], key: EcJwk, challenge: bytes) -> bytes:
    """REPORT_DATA of libaproxy 0.1.0: SHA-512 over what the host asked for, in the host's order.

    Insecure on purpose: the host chooses both recipe and challenge, so an SVSM that follows it signs hashes
    of the host's own bytes. It exists to show that, and nothing else may call it.

    Raises:
        WireError: an unknown parameter.
    """
    parts = {CHALLENGE: challenge, EC_PUBLIC_KEY_BYTES: key.x + key.y}
    digest = hashlib.sha512()
    for param in params:
        if param not in parts:
            raise WireError("params", f"must be {CHALLENGE} or {EC_PUBLIC_KEY_BYTES}")
        digest.update(parts[param])
    return digest.digest()
