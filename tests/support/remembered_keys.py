"""scrypt is slow on purpose. The same passphrase, salt and cost give the same key, which is derived once here."""

from ca_service.keys import sealed


class _Remembering:
    known: dict[tuple[object, ...], bytes] = {}  # noqa: RUF012 - it is shared
    real = sealed.Scrypt

    def __init__(self, **options: object) -> None:
        self._options = options

    def derive(self, passphrase: bytes) -> bytes:
        key = (passphrase, *sorted(self._options.items()))
        if key not in self.known:
            self.known[key] = _Remembering.real(**self._options).derive(passphrase)
        return self.known[key]


def remember_keys() -> None:
    """Let this process derive no key twice."""
    sealed.Scrypt = _Remembering
