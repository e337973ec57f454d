"""The KBS's directory: signing key, release policy, declared resources and their secrets.

```
DIR/master.key | master.scrypt    what seals the rest; see `vtpm.kbs.sealing`
DIR/policy.toml                   the release policy, for the administrator to edit
DIR/token.key                     sealed P-256 key of the attestation tokens; made when missing
DIR/signing.key                   sealed P-384 key of the grants; written last, so with it the directory is complete
DIR/resources/R.declared          sealed declaration of R (`/` written as `:`), with the secret of a provisioned one
DIR/resources/R.secret            sealed secret that the KBS generated on the first release
DIR/lock                          held by whoever writes
```
Nothing is cached but the keys: a resource declared by another process is served at once.
"""

import contextlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from vtpm.errors import UsageError
from vtpm.kbs.errors import KbsError
from vtpm.kbs.files import (
    PRIVATE_DIRECTORY,
    flush_directory,
    locked,
    make_private_directory,
    read_private,
    write_once,
    write_over,
)
from vtpm.kbs.policy import ReleasePolicy, as_measurement, write_policy
from vtpm.kbs.sealing import KEY_FILE, SCRYPT_FILE, Master, find_passphrase
from vtpm.wire.encoding import Members, b64url, canonical, parse_json
from vtpm.wire.errors import WireError
from vtpm.wire.grant import ORIGINS, GrantClaims, check_resource, sign_grant
from vtpm.wire.jwe import MAX_CIPHERTEXT
from vtpm.wire.jwk import EcJwk

KBS_GENERATED, PROVISIONED = ORIGINS
SECRET_SIZE: Final = 32
"""Bytes of a secret that the KBS generates."""

_POLICY: Final = "policy.toml"
_SIGNING: Final = "signing.key"
_EAR_SIGNING: Final = "token.key"
_RESOURCES: Final = "resources"
_OURS: Final = frozenset({KEY_FILE, SCRYPT_FILE, _POLICY, _SIGNING, _EAR_SIGNING, _RESOURCES, "lock"})
_MAX_DECLARATION: Final = 128 * 1024


@dataclass(frozen=True)
class Secret:
    """A declared resource's secret.

    Attributes:
        resource: `repository/type/tag`.
        origin: `kbs-generated` or `provisioned`.
        value: the secret itself.
    """

    resource: str
    origin: str
    value: bytes = field(repr=False)


class Kbs:
    """A key broker's keys, policy and resources; safe to use from several threads and processes."""

    def __init__(self, directory: Path, master: Master, signing_key: ec.EllipticCurvePrivateKey) -> None:
        self.directory = directory
        self._master = master
        self._signing_key = signing_key

    @classmethod
    def create_or_open(
        cls,
        directory: Path,
        *,
        measurements: Collection[bytes | str] = (),
        simulated: bool = True,
        passphrase: bytes | None = None,
    ) -> Self:
        """Open the KBS in `directory`, making it first if there is none.

        Args:
            directory: does not exist, is empty, or holds a KBS.
            measurements: launch measurements that a *new* KBS's policy allows; an existing policy stays as it is.
            simulated: whether a new KBS's policy takes the simulated platform.
            passphrase: protects the secrets; by default what `find_passphrase` finds in the environment.

        Raises:
            KbsError: the directory is damaged, unprotected, or does not open with this passphrase.
            UsageError: it holds something else.
        """
        allowed = frozenset(map(as_measurement, measurements))
        passphrase = find_passphrase() if passphrase is None else passphrase
        _prepare(directory)
        with locked(directory):
            if not (directory / _SIGNING).exists():
                return cls._create(directory, passphrase, write_policy(allowed, simulated=simulated))
        master = Master.create_or_load(directory, passphrase, may_create=False)
        return cls(directory, master, _load_key(master.unseal(read_private(directory / _SIGNING), _SIGNING)))

    @classmethod
    def _create(cls, directory: Path, passphrase: bytes | None, policy: bytes) -> Self:
        """Make what is missing; an earlier attempt may have died in between."""
        resources = directory / _RESOURCES
        make_private_directory(resources)
        if any(resources.iterdir()):
            raise KbsError(f"{directory / _SIGNING} is gone; a new key would be another KBS")
        master = Master.create_or_load(directory, passphrase, may_create=True)
        if not (directory / _POLICY).exists():
            write_once(directory / _POLICY, policy)
        if not (directory / _EAR_SIGNING).exists():
            write_once(directory / _EAR_SIGNING, master.seal(_new_key(ec.SECP256R1()), _EAR_SIGNING))
        der = _new_key(ec.SECP384R1())
        write_once(directory / _SIGNING, master.seal(der, _SIGNING))
        return cls(directory, master, _load_key(der))

    def public_jwk(self) -> EcJwk:
        """The key under which this KBS's grants verify (P-384)."""
        return EcJwk.from_key(self._signing_key.public_key())

    def sign_grant(self, claims: GrantClaims) -> str:
        """The compact JWS of a grant."""
        return sign_grant(claims, self._signing_key)

    def token_key(self) -> ec.EllipticCurvePrivateKey:
        """The P-256 key of the attestation tokens: always the same, so that a CA's policy can pin it.

        A directory of a release that had none gets one now. So does one that lost it, which a CA that pins the old
        key then refuses.

        Raises:
            KbsError: the file is damaged.
        """
        path = self.directory / _EAR_SIGNING
        try:
            data = read_private(path)
        except FileNotFoundError:
            with locked(self.directory), contextlib.suppress(FileExistsError):
                write_once(path, self._master.seal(_new_key(ec.SECP256R1()), _EAR_SIGNING))
            data = read_private(path)
        # A key that a crash forgets would be one that somebody has pinned in vain; see `_generated`.
        flush_directory(path.parent)
        return _load_key(self._master.unseal(data, _EAR_SIGNING))

    def token_jwk(self) -> EcJwk:
        """The key under which this KBS's attestation tokens verify (P-256); raises as `token_key`."""
        return EcJwk.from_key(self.token_key().public_key())

    def policy(self) -> ReleasePolicy:
        """The release policy as it stands now.

        Raises:
            KbsError: it is missing or malformed; nothing is released then.
        """
        try:
            return ReleasePolicy.parse(read_private(self.directory / _POLICY))
        except FileNotFoundError:
            raise KbsError(f"{self.directory / _POLICY} is gone") from None

    def allow_measurement(self, measurement: bytes | str) -> None:
        """Add a launch measurement (48 bytes or 96 hex digits) to the release policy; rewrites the file."""
        added = as_measurement(measurement)
        with locked(self.directory):
            policy = self.policy()
            if added not in policy.measurements:
                document = write_policy(policy.measurements | {added}, simulated=policy.simulated)
                write_over(self.directory / _POLICY, document)

    def declare(self, resource: str, key: bytes | None = None) -> None:
        """Declare a resource; only declared resources are ever released.

        Args:
            resource: `repository/type/tag`.
            key: its secret, from somebody who may know it (origin `provisioned`); without it the KBS generates 32 bytes
                on the first release (origin `kbs-generated`).

        Raises:
            UsageError: the name is malformed, or the key is empty or too large.
            KbsError: it is declared already with another key or origin; a secret is never replaced.
        """
        path = self._path(resource, "declared")
        if key is not None and not 0 < len(key) <= MAX_CIPHERTEXT:
            raise UsageError(f"a key must be 1 to {MAX_CIPHERTEXT} bytes, is {len(key)}")
        declaration = {"resource": resource, "origin": KBS_GENERATED}
        if key is not None:
            declaration |= {"origin": PROVISIONED, "secret": b64url(key)}
        purpose = f"declaration {resource}"
        with locked(self.directory):
            try:
                write_once(path, self._master.seal(canonical(declaration), purpose))
            except FileExistsError:
                known = self._declaration(resource)
                same = known is not None and known[0] == declaration["origin"]
                if not same or (known is not None and not secrets.compare_digest(known[1], key or b"")):
                    raise KbsError(f"{resource} is declared already, with another key or origin") from None

    def secret(self, resource: str) -> Secret | None:
        """The secret of a declared resource, generated now if this is its first release; None if it is not declared.

        Raises:
            WireError: the name is malformed.
            KbsError: a file is damaged.
        """
        check_resource(resource)
        known = self._declaration(resource)
        if known is None:
            return None
        origin, value = known
        return Secret(resource, origin, value if origin == PROVISIONED else self._generated(resource))

    def _declaration(self, resource: str) -> tuple[str, bytes] | None:
        """Origin and, if provisioned, the secret."""
        purpose = f"declaration {resource}"
        try:
            data = read_private(self._path(resource, "declared"))
        except FileNotFoundError:
            return None
        try:
            members = Members(
                parse_json(self._master.unseal(data, purpose), purpose, most=_MAX_DECLARATION, depth=1),
                purpose,
            )
            members.one_of("resource", (resource,))
            origin = members.one_of("origin", ORIGINS)
            value = members.b64url("secret", most=MAX_CIPHERTEXT) if origin == PROVISIONED else b""
            members.end()
        except WireError as error:
            raise KbsError(str(error)) from None
        return origin, value

    def _generated(self, resource: str) -> bytes:
        path, purpose = self._path(resource, "secret"), f"secret {resource}"
        try:
            data = read_private(path)
        except FileNotFoundError:
            # If another release was first, its secret is the one.
            with locked(self.directory), contextlib.suppress(FileExistsError):
                write_once(path, self._master.seal(secrets.token_bytes(SECRET_SIZE), purpose))
            data = read_private(path)
        # Only what is durable may be released: a secret that a crash forgets would lose a volume. Whoever wrote
        # it may still be about to flush, or have died before.
        flush_directory(path.parent)
        return self._master.unseal(data, purpose)

    def _path(self, resource: str, kind: str) -> Path:
        try:
            # The grammar has no colon and no leading dot, so names and files are one to one.
            name = check_resource(resource).replace("/", ":")
        except WireError as error:
            raise UsageError(str(error)) from None
        return self.directory / _RESOURCES / f"{name}.{kind}"


def _prepare(directory: Path) -> None:
    """Make the directory, or see that it is ours to use."""
    try:
        if directory.is_dir():
            names = {entry.name for entry in directory.iterdir()}
            if not names:
                directory.chmod(PRIVATE_DIRECTORY)
            elif not names & _OURS:
                raise UsageError(f"{directory} is not empty and holds no KBS")
        make_private_directory(directory)
    except OSError as error:
        raise UsageError(f"{directory}: {error.strerror}") from error


def _new_key(curve: ec.EllipticCurve) -> bytes:
    return ec.generate_private_key(curve).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load_key(der: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_der_private_key(der, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KbsError("a key of the KBS is no elliptic-curve key")
    return key
