"""One PKCS#11 module in this process: loaded once, used by one thread at a time, never across a fork.

Imported only when a key lives on a token: the package `pkcs11` is an optional extra.

python-pkcs11 initialises a module without asking for its locking, so the module may expect that calls come one
after the other (PKCS#11 v2.40, section 5.4, C_Initialize): hence the lock. A module that was initialised must not
be used in a forked child before the child initialises it anew (section 6.6.1): hence it is given up before each
fork, in the parent, and taken up again by whoever needs it next.
"""

import contextlib
import hmac
import os
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pkcs11
from pkcs11 import PKCS11Error, TokenFlag
from pkcs11.types import PrivateKey, Session
from pkcs11.types import Token as Slotted

from ca_service.judgment import BadRequest
from ca_service.keys.uri import TokenUri

if TYPE_CHECKING:
    from pkcs11 import _pkcs11

_PIN_ERRORS = (
    pkcs11.PinIncorrect,
    pkcs11.PinInvalid,
    pkcs11.PinLenRange,
    pkcs11.PinLocked,
    pkcs11.PinExpired,
    pkcs11.UserPinNotInitialized,
)


class PinRefusedError(Exception):
    """The token does not take the PIN; the text says why. Trying again may lock the token."""


class TokenAbsentError(Exception):
    """No such token is there; the text says more."""


@dataclass
class OpenToken:
    """A token on which somebody is logged in; `keys` are its private keys that were used, by CKA_ID."""

    slotted: Slotted
    session: Session
    keys: dict[bytes, PrivateKey] = field(default_factory=dict)


class Module:
    """A PKCS#11 module: a shared library."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._library: _pkcs11.lib | None = None
        self._tokens: dict[TokenUri, OpenToken] = {}
        self._refused: dict[TokenUri, set[bytes]] = {}
        self._blind = secrets.token_bytes(32)
        os.register_at_fork(
            before=self._before_fork, after_in_parent=self._lock.release, after_in_child=self._lock.release
        )

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other threads away; everything below wants it."""
        with self._lock:
            yield

    def logged_in(self, uri: TokenUri, pin: str) -> OpenToken:
        """The token, logged in as its user: the session that is open, or a new one.

        Args:
            uri: names the token.
            pin: once refused, it is not tried again in this process: tokens count wrong ones.

        Raises:
            PinRefusedError: it is wrong, or not tried because one more wrong one would lock the token.
            TokenAbsentError: there is no such token.
            BadRequest: several tokens are meant.
            PKCS11Error: the module or the token failed.
        """
        key = TokenUri(uri.token, uri.serial)
        if key not in self._tokens:
            refused = self._refused.setdefault(key, set())
            mark = hmac.digest(self._blind, pin.encode(), "sha256")
            if mark in refused:
                raise PinRefusedError("it refused this PIN before")
            slotted = self._find(key)
            try:
                self._tokens[key] = OpenToken(slotted, _log_in(slotted, pin))
            except _PIN_ERRORS as error:
                refused.add(mark)
                raise PinRefusedError(f"it refuses the PIN ({type(error).__name__})") from None
        return self._tokens[key]

    def drop(self) -> None:
        """Give the module up with all its sessions; the next use takes it up again."""
        self._tokens.clear()
        if self._library is not None and self._library.initialized:
            with contextlib.suppress(PKCS11Error):
                self._library.finalize()

    def _initialized(self) -> "_pkcs11.lib":
        if self._library is None:
            try:
                self._library = pkcs11.lib(self._path)
            except PKCS11Error as error:
                if type(error) is not PKCS11Error:
                    # The library is there, and its C_Initialize says no.
                    raise
                raise BadRequest(
                    "pkcs11.module",
                    f"{self._path} cannot be loaded",
                    code="pkcs11",
                    remedy="Name the shared library of the token's maker.",
                ) from None
        elif not self._library.initialized:
            self._library.initialize()
        return self._library

    def _find(self, uri: TokenUri) -> Slotted:
        found = []
        for slot in self._initialized().get_slots(token_present=True):
            with contextlib.suppress(pkcs11.TokenNotPresent, pkcs11.TokenNotRecognised):
                token = slot.get_token()
                serial = token.serial.decode("utf-8", "replace").strip()
                if token.label == uri.token and uri.serial in ("", serial):
                    found.append(token)
        if not found:
            raise TokenAbsentError("it is not there")
        if len(found) > 1:
            raise BadRequest(
                "pkcs11", "several tokens have this label", remedy="Add their serial= to the URI."
            )
        return found[0]

    def _before_fork(self) -> None:
        self._lock.acquire()
        self.drop()


def _log_in(token: Slotted, pin: str) -> Session:
    if token.flags & TokenFlag.USER_PIN_LOCKED:
        raise PinRefusedError("its PIN is locked")
    if token.flags & TokenFlag.USER_PIN_FINAL_TRY:
        raise PinRefusedError("it says that one more wrong PIN locks it, so none is tried")
    try:
        return token.open(user_pin=pin)
    except pkcs11.UserAlreadyLoggedIn:
        # Under a URI with and one without serial number: logins belong to the token, not to sessions.
        return token.open()


_MODULES: dict[str, Module] = {}
_MODULES_LOCK = threading.Lock()


def module(path: str) -> Module:
    """The module of this path: one object per process."""
    with _MODULES_LOCK:
        if path not in _MODULES:
            _MODULES[path] = Module(path)
        return _MODULES[path]
