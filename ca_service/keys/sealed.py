"""Secrets at rest: JSON around AES-256-GCM, under a key that scrypt makes from the operator's passphrase.

Everything in the file but the ciphertext is authenticated with it, the purpose too: a file put into the place
of another one does not open.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from ca_service.judgment import BadRequest
from ca_service.profiles import Entropy
from vtpm.wire.encoding import Members, b64url, canonical, parse_json
from vtpm.wire.errors import WireError

FORMAT = "vtpm-ca-sealed/1"
_CIPHER = "A256GCM"
_KDF = "scrypt"
_MAX_FILE = 16 * 1024
_SALT_SIZE = 16
_NONCE_SIZE = 12
_KEY_SIZE = 32
_TAG_SIZE = 16

_REMEDY = "Name the right file, or bring it back from a copy of the CA's directory."

LOG2_N = 16
"""scrypt cost: 2^16 blocks of 1 KiB, 64 MiB and about 0.2 s; within what OWASP advises for passwords."""
_BLOCK_SIZE = 8
_PARALLEL = 1
_LEAST_LOG2_N = 14
_MOST_LOG2_N = 20


class Sealer:
    """Seals and opens files under one passphrase.

    scrypt is slow on purpose, so the derived key is kept per salt as long as this object lives, and what one
    object seals shares a salt (each file has a nonce of its own). Neither passphrase nor key shows in `repr`.
    """

    def __init__(self, passphrase: bytes, *, log2_n: int = LOG2_N) -> None:
        if not passphrase:
            raise BadRequest("passphrase", "must not be empty", code="passphrase")
        if not _LEAST_LOG2_N <= log2_n <= _MOST_LOG2_N:
            raise ValueError(f"log2_n is {_LEAST_LOG2_N} to {_MOST_LOG2_N}")
        self._passphrase = passphrase
        self._log2_n = log2_n
        self._salt: bytes | None = None
        self._keys: dict[tuple[bytes, int], bytes] = {}

    def __repr__(self) -> str:
        return "Sealer()"

    def seal(self, plaintext: bytes, *, purpose: str, entropy: Entropy) -> bytes:
        """Seal `plaintext`; the result is the content of a file.

        Args:
            plaintext: the secret, any length below 8 KiB.
            purpose: what the secret is for; must be named again to open the file.
            entropy: source of salt and nonce.
        """
        if self._salt is None:
            self._salt = entropy(_SALT_SIZE)
        nonce = entropy(_NONCE_SIZE)
        header = _header(purpose, self._log2_n, self._salt, nonce)
        ciphertext = AESGCM(self._key(self._salt, self._log2_n)).encrypt(nonce, plaintext, canonical(header))
        return canonical({**header, "ciphertext": b64url(ciphertext)}) + b"\n"

    def unseal(self, data: bytes, *, purpose: str) -> bytes:
        """Open the content of a sealed file.

        Args:
            data: what `seal` gave.
            purpose: what the secret is wanted for.

        Raises:
            BadRequest: no sealed file at all, or for another purpose (code ``malformed``); damaged or another
                passphrase, which cannot be told apart (code ``passphrase``).
        """
        try:
            header, log2_n, salt, nonce, ciphertext = _parse(data)
        except WireError as error:
            raise BadRequest(
                f"the sealed {purpose}", f"{error.path} {error.problem}", remedy=_REMEDY
            ) from None
        if header["purpose"] != purpose:
            raise BadRequest(f"the sealed {purpose}", f"is a file for {header['purpose']}", remedy=_REMEDY)
        try:
            return AESGCM(self._key(salt, log2_n)).decrypt(nonce, ciphertext, canonical(header))
        except InvalidTag:
            raise BadRequest(
                "passphrase",
                f"the sealed {purpose} does not open: wrong passphrase, or the file is damaged",
                code="passphrase",
            ) from None

    def _key(self, salt: bytes, log2_n: int) -> bytes:
        known = self._keys.get((salt, log2_n))
        if known is None:
            kdf = Scrypt(salt=salt, length=_KEY_SIZE, n=1 << log2_n, r=_BLOCK_SIZE, p=_PARALLEL)
            known = self._keys[salt, log2_n] = kdf.derive(self._passphrase)
        return known


def reseal(data: bytes, before: Sealer, after: Sealer, entropy: Entropy) -> bytes:
    """The same secret for the same purpose under another passphrase; raises as `Sealer.unseal`."""
    purpose = _purpose(data)
    return after.seal(before.unseal(data, purpose=purpose), purpose=purpose, entropy=entropy)


def opens(data: bytes, sealer: Sealer) -> bool:
    """Whether a sealer opens the content of a sealed file, whatever that is for; raises BadRequest if it is none."""
    try:
        sealer.unseal(data, purpose=_purpose(data))
    except BadRequest as error:
        if error.code != "passphrase":
            raise
        return False
    return True


def _purpose(data: bytes) -> str:
    try:
        return str(_parse(data)[0]["purpose"])
    except WireError as error:
        raise BadRequest("the file", f"{error.path} {error.problem}", remedy=_REMEDY) from None


def seal(plaintext: bytes, passphrase: bytes, *, purpose: str, entropy: Entropy) -> bytes:
    """Seal one secret; see `Sealer.seal`."""
    return Sealer(passphrase).seal(plaintext, purpose=purpose, entropy=entropy)


def unseal(data: bytes, passphrase: bytes, *, purpose: str) -> bytes:
    """Open one sealed secret; see `Sealer.unseal`."""
    return Sealer(passphrase).unseal(data, purpose=purpose)


def _header(purpose: str, log2_n: int, salt: bytes, nonce: bytes) -> dict[str, object]:
    return {
        "format": FORMAT,
        "purpose": purpose,
        "cipher": _CIPHER,
        "nonce": b64url(nonce),
        "kdf": {"name": _KDF, "log2_n": log2_n, "r": _BLOCK_SIZE, "p": _PARALLEL, "salt": b64url(salt)},
    }


def _parse(data: bytes) -> tuple[dict[str, object], int, bytes, bytes, bytes]:
    """The parts of a sealed file, or WireError; the bounds on the cost keep a file from eating the memory."""
    members = Members(parse_json(data, "sealed", most=_MAX_FILE, depth=3), "sealed")
    members.one_of("format", (FORMAT,))
    members.one_of("cipher", (_CIPHER,))
    purpose = members.text("purpose", most=64)
    nonce = members.b64url("nonce", size=_NONCE_SIZE)
    ciphertext = members.b64url("ciphertext", most=_MAX_FILE)
    kdf = members.members("kdf")
    members.end()
    kdf.one_of("name", (_KDF,))
    log2_n = kdf.integer("log2_n", _LEAST_LOG2_N, _MOST_LOG2_N)
    kdf.integer("r", _BLOCK_SIZE, _BLOCK_SIZE)
    kdf.integer("p", _PARALLEL, _PARALLEL)
    salt = kdf.b64url("salt", size=_SALT_SIZE)
    kdf.end()
    if len(ciphertext) < _TAG_SIZE:
        raise WireError("sealed.ciphertext", "is too short")
    return _header(purpose, log2_n, salt, nonce), log2_n, salt, nonce, ciphertext
