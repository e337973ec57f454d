"""TLS of a listener: a server's certificate and key, and for operators the CA of their certificates."""

import ssl
import stat
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from ca_service.judgment import BadRequest

_HTTP = ["http/1.1"]
_SOON = timedelta(days=14)


@dataclass(frozen=True)
class TlsFiles:
    """Where certificate and key are, and by which options they were named.

    Attributes:
        certificate: the server's chain (PEM).
        key: its key (PEM), without a passphrase.
        clients: CA certificates (PEM); given, only clients with a certificate of theirs may come.
        option: prefix of the options, for error messages: ``--tls`` for ``--tls-cert``.
    """

    certificate: Path
    key: Path
    clients: Path | None = None
    option: str = "--tls"

    def context(self) -> ssl.SSLContext:
        """A context for the server's side.

        Raises:
            BadRequest: a file cannot be read, certificate and key do not belong together, or the key has a passphrase.
        """
        pair, key = f"{self.option}-cert and {self.option}-key", f"{self.option}-key"

        def no_passphrase() -> str:
            raise BadRequest(key, "must not have a passphrase: nobody is there to type it")

        _readable(f"{self.option}-cert", self.certificate)
        _readable(key, self.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.set_alpn_protocols(_HTTP)
        try:
            context.load_cert_chain(self.certificate, self.key, no_passphrase)
        except ssl.SSLError as error:
            detail = f"are no certificate with its key in PEM ({error.reason or 'unreadable'})"
            raise BadRequest(pair, detail) from None
        except OSError as error:
            raise BadRequest(pair, f"cannot be read: {error.strerror}") from None
        if self.clients is not None:
            self._demand_clients(context, self.clients)
        return context

    def _demand_clients(self, context: ssl.SSLContext, authorities: Path) -> None:
        option = f"{self.option}-ca"
        try:
            context.load_verify_locations(authorities)
        except ssl.SSLError:
            raise BadRequest(option, "has no certificates in PEM") from None
        except OSError as error:
            raise BadRequest(option, f"cannot be read: {error.strerror}") from None
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # An operator who is no longer trusted must not come back by a ticket of a day when he was.
        context.num_tickets = 0

    def concerns(self, at: datetime) -> list[str]:
        """What is doubtful about files that can be used: sentences for people, each with its remedy."""
        found = []
        try:
            certificate, *_ = x509.load_pem_x509_certificates(self.certificate.read_bytes())
            begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            mode = self.key.stat().st_mode
        except (OSError, ValueError):
            return [f"{self.option}-cert and {self.option}-key cannot be looked at any more"]
        if not begin <= at < end:
            found.append(
                f"the certificate of {self.option}-cert holds from {begin:%Y-%m-%d} to {end:%Y-%m-%d %H:%M} UTC, "
                "so clients refuse it now: renew it, and reload the server"
            )
        elif end - at < _SOON:
            found.append(
                f"the certificate of {self.option}-cert ends on {end:%Y-%m-%d %H:%M} UTC: "
                "renew it, and reload the server"
            )
        if mode & stat.S_IROTH:
            found.append(f"every user of this machine can read the file of {self.option}-key: chmod o= on it")
        if self.clients is not None:
            found += written_by_others(f"{self.option}-ca", self.clients)
        return found


def _readable(option: str, path: Path) -> None:
    """OpenSSL does not say which of two files it could not read."""
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise BadRequest(option, f"cannot be read: {error.strerror}") from None


def written_by_others(option: str, path: Path) -> list[str]:
    """A concern if not only its owner may write a file that says who is an operator."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return [f"the file of {option} cannot be looked at any more"]
    others = stat.S_IWGRP | stat.S_IWOTH
    return [f"not only its owner may write the file of {option}: chmod go-w on it"] if mode & others else []


class Tls:
    """The context of a listener, renewed from its files when the server is told so (SIGHUP)."""

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        self.context = files.context()

    def renew(self) -> None:
        """Take what is in the files now; raises `BadRequest`, and stays with what there was, if it cannot be used."""
        self.context = self.files.context()

    def concerns(self, at: datetime) -> list[str]:
        """As `TlsFiles.concerns`."""
        return self.files.concerns(at)
