"""Keys on PKCS#11 tokens: made there, never out of there, reached again when a token comes back.

Imported only when a key lives on a token: the package `pkcs11` is an optional extra.
"""

import contextlib
import time
from collections.abc import Callable
from hashlib import sha384
from typing import TypeVar, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass, PKCS11Error
from pkcs11.types import PrivateKey, PublicKey, Session, SignMixin
from pkcs11.util.ec import encode_named_curve_parameters

from ca_service.judgment import BadRequest, Conflict, Unavailable, VtpmCaError
from ca_service.keys.cryptoki import OpenToken, PinRefusedError, TokenAbsentError, module
from ca_service.keys.custody import NewKey
from ca_service.keys.passphrase import PinSource
from ca_service.keys.uri import TokenUri
from ca_service.profiles import Entropy

T = TypeVar("T")

_P384 = "1.3.132.0.34"
_POINT_SIZE = 97
_HALF = 48
_PAUSES_S = (0.0, 0.02, 0.05, 0.1, 0.2)
_AWAY_S = 1.0
_ID_SIZE = 16
_PROOF = b"This signature shows that a key belongs to its certificate."
"""Signed to see whether a key is the right one; no certificate and no list begins like this."""

_WRAPPED_POINT = b"\x04\x61"


class Token:
    """A token with its PIN."""

    def __init__(self, module_path: str, uri: TokenUri, pin: PinSource) -> None:
        self.uri = TokenUri(uri.token, uri.serial)
        self._module = module(module_path)
        self._pin = pin
        self._away_until = 0.0

    def __repr__(self) -> str:
        return f"Token({self.uri})"

    def sign_digest(self, key: TokenUri, digest: bytes) -> bytes:
        """ECDSA over a digest (CKM_ECDSA).

        Args:
            key: names the private key by its id.
            digest: 48 bytes, SHA-384 of what is signed.

        Returns:
            r and s, big-endian, 48 bytes each.

        Raises:
            BadRequest: the token refuses the PIN (code ``pin``), or does not hold the key (``authority``).
            Unavailable: the token is not there or fails (``token``).
        """

        def sign(token: OpenToken) -> bytes:
            private = token.keys.get(key.id)
            if private is None:
                private = token.keys[key.id] = self._find(token.session, key)
            return cast("SignMixin", private).sign(digest, mechanism=Mechanism.ECDSA)

        return self._use(sign, again=True)

    def generate(self, label: str, identity: bytes, *, alone: bool) -> ec.EllipticCurvePublicKey:
        """Make a P-384 key pair of which the private half can neither be read nor wrapped.

        Args:
            label: CKA_LABEL, for people.
            identity: CKA_ID.
            alone: no other private key on the token may have this label.

        Raises:
            Conflict: there is a private key with this label (code ``exists``).
            VtpmCaError: the token made a key that could leave it (``token``).
            BadRequest, Unavailable: as `sign_digest`.
        """

        def make(token: OpenToken) -> ec.EllipticCurvePublicKey:
            like_it = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: label}
            if alone and list(token.session.get_objects(like_it)):
                raise Conflict(
                    f"the token {self.uri.token} has a key {label} already",
                    code="exists",
                    remedy="A ceremony never uses a key that it finds; name another label or token.",
                )
            session = token.slotted.open(rw=True)
            try:
                return _generate(session, label, identity)
            finally:
                session.close()

        return self._use(make, again=False)

    def destroy(self, identity: bytes) -> None:
        """Destroy the key pair with this id; raises as `sign_digest`."""

        def destroy(token: OpenToken) -> None:
            session = token.slotted.open(rw=True)
            try:
                token.keys.pop(identity, None)
                for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
                    for found in list(session.get_objects({Attribute.CLASS: kind, Attribute.ID: identity})):
                        found.destroy()
            finally:
                session.close()

        self._use(destroy, again=False)

    def _find(self, session: Session, key: TokenUri) -> PrivateKey:
        wanted = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.ID: key.id}
        if key.object:
            wanted[Attribute.LABEL] = key.object
        found = list(session.get_objects(wanted))
        if len(found) != 1 or not isinstance(found[0], PrivateKey):
            raise BadRequest(
                "pkcs11", f"the token {self.uri.token} does not hold exactly one key {key}", code="authority"
            )
        return found[0]

    def _use(self, action: Callable[[OpenToken], T], *, again: bool) -> T:
        """Do something on the token; `again` if it may be done twice, after the module was taken up anew.

        Sessions die with a token that is pulled, and a token may be missing for a moment only (SoftHSM's is while
        another process logs in), so some tries are made. While it stays away, each second has one such round.
        """
        with self._module.alone():
            if time.monotonic() < self._away_until:
                raise self._out_of_reach("it was not there a moment ago")
            why = ""
            for pause in _PAUSES_S:
                time.sleep(pause)
                try:
                    token = self._log_in()
                except (TokenAbsentError, PKCS11Error) as error:
                    why = _reason(error)
                    self._module.drop()
                    continue
                try:
                    return action(token)
                except PKCS11Error as error:
                    why = _reason(error)
                    self._module.drop()
                    if not again:
                        break
            self._away_until = time.monotonic() + _AWAY_S
            raise self._out_of_reach(why)

    def _log_in(self) -> OpenToken:
        try:
            return self._module.logged_in(self.uri, self._pin_text())
        except PinRefusedError as error:
            self._module.drop()
            raise BadRequest(
                "pin",
                f"the token {self.uri.token} cannot be opened: {error}",
                code="pin",
                remedy="Correct the PIN. It is not tried again by itself, because tokens count wrong ones.",
            ) from None

    def _pin_text(self) -> str:
        try:
            return self._pin().decode("utf-8")
        except UnicodeDecodeError:
            raise BadRequest("pin", "must be UTF-8 text", code="pin") from None

    def _out_of_reach(self, why: str) -> Unavailable:
        return Unavailable(
            f"the token {self.uri.token} cannot be used: {why}",
            code="token",
            remedy="When the token is back, the CA goes on by itself.",
        )


class TokenSigner:
    """A signer whose key lives on a token."""

    def __init__(self, token: Token, key: TokenUri, public_key: ec.EllipticCurvePublicKey) -> None:
        self._token = token
        self._key = key
        self._public_key = public_key

    def __repr__(self) -> str:
        return f"TokenSigner({self._key})"

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The key's public half."""
        return self._public_key

    def sign(self, data: bytes) -> bytes:
        """ECDSA with SHA-384 over `data`, as DER of an ECDSA-Sig-Value.

        Raises:
            Unavailable: the token cannot be used now, for whatever reason (code ``token``).
            VtpmCaError: the token gave something else than a signature (code ``signer``).
        """
        try:
            raw = self._token.sign_digest(self._key, sha384(data).digest())
        except BadRequest as error:
            # Whoever wants a signature now is not the one who gave a wrong PIN.
            raise Unavailable(error.detail, code="token", remedy=error.remedy) from None
        return _der(raw)


def open_signer(token: Token, key: TokenUri, public_key: ec.EllipticCurvePublicKey) -> TokenSigner:
    """The signer with a key on a token, after a signature has proved that it is the one that belongs to `public_key`.

    Raises:
        BadRequest: it is another key (code ``authority``), or as `Token.sign_digest`.
        Unavailable: as `Token.sign_digest`.
    """
    try:
        signature = _der(token.sign_digest(key, sha384(_PROOF).digest()))
        public_key.verify(signature, _PROOF, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise BadRequest("pkcs11", f"{key} is not the key of its certificate", code="authority") from None
    return TokenSigner(token, key, public_key)


class TokenCustody:
    """A token on which keys are made."""

    def __init__(self, token: Token, entropy: Entropy, *, label: str = "") -> None:
        self._token = token
        self._entropy = entropy
        self._label = label
        self._made: list[bytes] = []

    def generate(self, name: str, purpose: str) -> NewKey:
        """Make a key with an id of its own; its label is `name` after ``vtpm-ca``, unless one was demanded."""
        del purpose
        identity = self._entropy(_ID_SIZE)
        label = self._label or f"vtpm-ca {name}"
        self._made.append(identity)
        public_key = self._token.generate(label, identity, alone=bool(self._label))
        key = TokenUri(self._token.uri.token, self._token.uri.serial, label, identity)
        return NewKey(TokenSigner(self._token, key, public_key), str(key))

    def discard(self) -> None:
        """Destroy the keys that this object made, each unless the token is out of reach."""
        for identity in self._made:
            with contextlib.suppress(VtpmCaError):
                self._token.destroy(identity)


def _reason(error: Exception) -> str:
    """What the token's maker calls it; python-pkcs11 says it with the class."""
    return str(error) if isinstance(error, TokenAbsentError) else type(error).__name__


def _der(raw: bytes) -> bytes:
    if len(raw) != 2 * _HALF:
        raise VtpmCaError("the token gave something else than a P-384 signature", code="signer")
    return encode_dss_signature(int.from_bytes(raw[:_HALF], "big"), int.from_bytes(raw[_HALF:], "big"))


def _generate(session: Session, label: str, identity: bytes) -> ec.EllipticCurvePublicKey:
    curve = {Attribute.EC_PARAMS: encode_named_curve_parameters(_P384)}
    public, private = session.create_domain_parameters(KeyType.EC, curve, local=True).generate_keypair(
        id=identity,
        label=label,
        store=True,
        mechanism=Mechanism.EC_KEY_PAIR_GEN,
        public_template={Attribute.VERIFY: True, Attribute.ENCRYPT: False, Attribute.WRAP: False},
        private_template={
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.SIGN: True,
            Attribute.DECRYPT: False,
            Attribute.UNWRAP: False,
            Attribute.DERIVE: False,
        },
    )
    captive = (
        private[Attribute.ALWAYS_SENSITIVE]
        and private[Attribute.NEVER_EXTRACTABLE]
        and private[Attribute.LOCAL]
    )
    if not captive:
        private.destroy()
        public.destroy()
        raise VtpmCaError("the token made a key that could leave it", code="token")
    return _public_key(public)


def _public_key(key: PublicKey) -> ec.EllipticCurvePublicKey:
    """The public half from CKA_EC_POINT: the point in a DER OCTET STRING, or bare, as some tokens have it."""
    point = key[Attribute.EC_POINT]
    if len(point) == _POINT_SIZE + len(_WRAPPED_POINT):
        point = point.removeprefix(_WRAPPED_POINT)
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), point)
    except ValueError:
        raise VtpmCaError("the token made a key that is not on P-384", code="token") from None
