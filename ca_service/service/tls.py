"""TLS of a listener: a server's certificate and key, and for operators the CA of their certificates."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from ca_service.judgment import BadRequest

_HTTP = ["http/1.1"]


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


class Tls:
    """The context of a listener, renewed from its files when the server is told so (SIGHUP)."""

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        self.context = files.context()

    def renew(self) -> None:
        """Take what is in the files now; raises `BadRequest`, and stays with what there was, if it cannot be used."""
        self.context = self.files.context()
