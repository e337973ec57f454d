"""The sealed resource: a flattened JWE, ECDH-ES+A256KW and A256GCM, with its header in the proxy's order.

Sources: RFC 7516, RFC 7518 sections 4.6 and 5.3, RFC 3394. The proxy on the host (libaproxy 0.1.0) does not
pass the protected header on as received: it parses it and writes it anew, compact, `alg` and `enc` first and
the rest sorted. GCM authenticates those bytes, so a header must already be in that form. JOSE libraries order
it otherwise; hence this module.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vtpm.wire.encoding import Members, b64url, parse_json, unb64url
from vtpm.wire.errors import WireError
from vtpm.wire.jwk import EcJwk

ALG: Final = "ECDH-ES+A256KW"
ENC: Final = "A256GCM"
GRANT_MEMBER: Final = "kbs_grant"
"""Protected header member that carries the grant."""

MAX_HEADER: Final = 16 * 1024
"""Largest protected header in bytes of JSON."""

MAX_CIPHERTEXT: Final = 64 * 1024
"""Largest ciphertext in bytes."""

_CURVES: Final = ("P-521", "P-256")
_KEY: Final = 32
_WRAPPED: Final = 40
_IV: Final = 12
_TAG: Final = 16
_MAX_HEADER_TEXT: Final = (MAX_HEADER * 4 + 2) // 3


def concat_kdf(z: bytes) -> bytes:
    """The 32-byte key-encryption key from a shared secret (RFC 7518 section 4.6.2; apu and apv empty).

    Args:
        z: x-coordinate of the shared point, in the curve's full length (66 bytes for P-521).
    """
    name = ALG.encode("ascii")
    info = len(name).to_bytes(4, "big") + name + bytes(4) + bytes(4) + (_KEY * 8).to_bytes(4, "big")
    return hashlib.sha256((1).to_bytes(4, "big") + z + info).digest()


def _ordered(members: Mapping[str, object]) -> bytes:
    """JSON as the proxy writes it. serde_json sorts by the UTF-8 bytes and escapes no more than it must."""
    first = {name: members[name] for name in ("alg", "enc")}
    rest = {name: members[name] for name in members if name not in first}
    head = json.dumps(first, separators=(",", ":"), ensure_ascii=False)
    if not rest:
        return head.encode("utf-8")
    tail = json.dumps(rest, separators=(",", ":"), ensure_ascii=False, sort_keys=True)
    return (head[:-1] + "," + tail[1:]).encode("utf-8")


def reserialise(header: bytes) -> bytes:
    """What the proxy makes of a protected header's JSON; a header that we write stays as it is.

    Raises:
        WireError: not a JSON object with `alg` and `enc`.
    """
    value = parse_json(header, "protected", most=MAX_HEADER)
    members = Members(value, "protected")
    members.text("alg")
    members.text("enc")
    if not isinstance(value, dict):  # pragma: no cover - `Members` has refused it
        raise WireError("protected", "must be a JSON object")
    return _ordered(value)


def protected_header(epk: EcJwk, extra: Mapping[str, str]) -> bytes:
    """The protected header's JSON: compact, `alg`, `enc`, then the rest sorted.

    Args:
        epk: the sender's ephemeral key.
        extra: further members, printable ASCII; the grant goes here.

    Raises:
        WireError: `extra` has a member that the header has already, or that is not printable ASCII.
    """
    members: dict[str, object] = {"alg": ALG, "enc": ENC, "epk": epk.members()}
    for name, value in extra.items():
        if name in members:
            raise WireError(f"protected.{name}", "the member stands twice")
        if not all(text.isascii() and text.isprintable() for text in (name, value)):
            raise WireError("protected", "members must be printable ASCII")
        members[name] = value
    header = _ordered(members)
    if len(header) > MAX_HEADER:
        raise WireError("protected", f"must be at most {MAX_HEADER} bytes, is {len(header)}")
    return header


@dataclass(frozen=True)
class ProtectedHeader:
    """What a protected header says.

    Attributes:
        epk: the sender's ephemeral key: the only place from which to take it.
        grant: the compact JWS of the KBS grant; None when the KBS issues none.
    """

    epk: EcJwk
    grant: str | None


def parse_protected(aad: bytes, path: str = "protected") -> ProtectedHeader:
    """Read a protected header from the bytes that GCM authenticates.

    Args:
        aad: ASCII of the base64url JSON header.
        path: where `aad` stood, for errors.

    Raises:
        WireError: another algorithm, an epk that is no strict P-521 or P-256 key, or a further member that is
            no string.
    """
    if len(aad) > _MAX_HEADER_TEXT:
        raise WireError(path, f"must be at most {_MAX_HEADER_TEXT} bytes, is {len(aad)}")
    try:
        text = aad.decode("ascii")
    except UnicodeDecodeError as error:
        raise WireError(path, "must be ASCII") from error
    value = parse_json(unb64url(text, path, most=MAX_HEADER), path, most=MAX_HEADER)
    members = Members(value, path)
    members.one_of("alg", (ALG,))
    members.one_of("enc", (ENC,))
    epk = EcJwk.parse(members.value("epk"), members.at("epk"), curves=_CURVES)
    grant = None
    for name in members.unread():
        # apu and apv would change the key derivation, crit and zip the meaning of the rest.
        if name in ("apu", "apv", "crit", "zip"):
            raise WireError(members.at(name), "is not supported")
        further = members.text(name, least=0, most=MAX_HEADER)
        if name == GRANT_MEMBER:
            grant = further
    members.end()
    return ProtectedHeader(epk, grant)


@dataclass(frozen=True)
class SealedResource:
    """A flattened JWE (RFC 7516 section 7.2.2).

    Attributes:
        protected: base64url of the protected header, kept as text: GCM authenticates it as it stands.
        encrypted_key: 40 bytes, the content key under AES key wrap.
        iv: 12 bytes.
        ciphertext: the encrypted secret.
        tag: 16 bytes.
    """

    protected: str
    encrypted_key: bytes
    iv: bytes
    ciphertext: bytes
    tag: bytes

    def to_json(self) -> dict[str, object]:
        """The JSON members."""
        return {
            "protected": self.protected,
            "encrypted_key": b64url(self.encrypted_key),
            "iv": b64url(self.iv),
            "ciphertext": b64url(self.ciphertext),
            "tag": b64url(self.tag),
        }

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the JSON bytes; the protected header is not looked into.

        Raises:
            WireError: another form, or a field of another size.
        """
        members = Members(parse_json(data, "resource", most=2 * MAX_CIPHERTEXT), "resource")
        protected = members.text("protected", most=_MAX_HEADER_TEXT)
        unb64url(protected, members.at("protected"), most=MAX_HEADER)
        sealed = cls(
            protected=protected,
            encrypted_key=members.b64url("encrypted_key", size=_WRAPPED),
            iv=members.b64url("iv", size=_IV),
            ciphertext=members.b64url("ciphertext", most=MAX_CIPHERTEXT),
            tag=members.b64url("tag", size=_TAG),
        )
        members.end()
        return sealed


def seal(
    secret: bytes,
    recipient: EcJwk,
    ephemeral: ec.EllipticCurvePrivateKey,
    *,
    extra: Mapping[str, str],
    entropy: Callable[[int], bytes],
) -> SealedResource:
    """Encrypt `secret` to `recipient`.

    Args:
        secret: at most 64 KiB.
        recipient: the SVSM's key.
        ephemeral: a fresh key on the recipient's curve, for this one message only.
        extra: further protected header members, the grant above all.
        entropy: gives that many random bytes.

    Raises:
        WireError: the curves differ, the recipient's point is not on its curve, or the secret or header is
            too large.
    """
    epk = EcJwk.from_key(ephemeral.public_key())
    if epk.crv != recipient.crv:
        raise WireError("recipient", "must be on the curve of the ephemeral key")
    if len(secret) > MAX_CIPHERTEXT:
        raise WireError("secret", f"must be at most {MAX_CIPHERTEXT} bytes, is {len(secret)}")
    try:
        shared = ephemeral.exchange(ec.ECDH(), recipient.public_key())
    except ValueError as error:
        raise WireError("recipient", f"the point is not on {recipient.crv}") from error
    protected = b64url(protected_header(epk, extra))
    content_key, iv = entropy(_KEY), entropy(_IV)
    encrypted = AESGCM(content_key).encrypt(iv, secret, protected.encode("ascii"))
    return SealedResource(
        protected=protected,
        encrypted_key=keywrap.aes_key_wrap(concat_kdf(shared), content_key),
        iv=iv,
        ciphertext=encrypted[:-_TAG],
        tag=encrypted[-_TAG:],
    )


@dataclass(frozen=True)
class _Parts:
    wrapped_cek: bytes
    iv: bytes
    ciphertext: bytes = field(repr=False)
    tag: bytes

    def check(self) -> None:
        # AES key wrap and GCM have no defined answer for other lengths, and libraries differ in theirs.
        for name, value, size in (
            ("wrapped_cek", self.wrapped_cek, _WRAPPED),
            ("iv", self.iv, _IV),
            ("tag", self.tag, _TAG),
        ):
            if len(value) != size:
                raise WireError(f"decryption.{name}", f"must be {size} bytes, is {len(value)}")
        if len(self.ciphertext) > MAX_CIPHERTEXT:
            raise WireError("decryption.ciphertext", f"must be at most {MAX_CIPHERTEXT} bytes")


def open_sealed(
    key: ec.EllipticCurvePrivateKey,
    epk: EcJwk,
    *,
    aad: bytes,
    wrapped_cek: bytes,
    iv: bytes,
    ciphertext: bytes,
    tag: bytes,
) -> bytes:
    """Decrypt a sealed resource.

    Args:
        key: the recipient's private key.
        epk: the sender's ephemeral key; take it from `parse_protected` of the same `aad`.
        aad: ASCII of the base64url protected header, which the tag covers.
        wrapped_cek: 40 bytes.
        iv: 12 bytes.
        ciphertext: as long as the secret.
        tag: 16 bytes.

    Raises:
        WireError: with a path under `decryption`: a length is wrong, the point is not on the key's curve, or
            it does not decrypt. Which of the last steps failed is not told.
    """
    parts = _Parts(wrapped_cek, iv, ciphertext, tag)
    parts.check()
    own = EcJwk.from_key(key.public_key())
    if epk.crv != own.crv:
        raise WireError("decryption.epk", f"must be on {own.crv}")
    try:
        shared = key.exchange(ec.ECDH(), epk.public_key())
    except ValueError as error:
        raise WireError("decryption.epk", f"the point is not on {own.crv}") from error
    try:
        content_key = keywrap.aes_key_unwrap(concat_kdf(shared), wrapped_cek)
        return AESGCM(content_key).decrypt(iv, ciphertext + tag, aad)
    except (keywrap.InvalidUnwrap, InvalidTag):
        raise WireError("decryption", "does not decrypt") from None
