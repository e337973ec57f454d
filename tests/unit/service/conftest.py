import contextlib
from datetime import UTC, datetime, timedelta

import pytest
import small_service
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PEM = serialization.Encoding.PEM


@pytest.fixture
def serve(tmp_path):
    """Starts servers of `small_service`, and ends them."""
    with contextlib.ExitStack() as stack:

        def start(*specs, workers: int = 1):
            server = small_service.Small(
                tmp_path / "log", *(specs or (small_service.Spec(),)), workers=workers
            )
            stack.callback(server.close)
            return server

        yield start


class Authority:
    """A CA for TLS, whose certificates are files."""

    def __init__(self, folder, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.file = folder / f"{name}.pem"
        basic = x509.BasicConstraints(ca=True, path_length=None)
        made = self._builder(self._name, self._key.public_key()).add_extension(basic, critical=True)
        self.file.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(PEM))

    def _builder(self, subject, key):
        at = datetime.now(UTC)
        return x509.CertificateBuilder(
            self._name,
            subject,
            key,
            x509.random_serial_number(),
            at - timedelta(hours=1),
            at + timedelta(hours=1),
        )

    def issue(self, file: str, *common_names: str, uris=(), dns=()):
        """Certificate and key, as files."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name) for name in common_names])
        builder = self._builder(subject, key.public_key())
        names = [*map(x509.UniformResourceIdentifier, uris), *map(x509.DNSName, dns)]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not common_names)
        paths = self._folder / f"{file}.pem", self._folder / f"{file}.key"
        paths[0].write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(PEM))
        form = serialization.PrivateFormat.PKCS8
        paths[1].write_bytes(key.private_bytes(PEM, form, serialization.NoEncryption()))
        return paths


@pytest.fixture
def authority(tmp_path):
    """Makes CAs for TLS."""
    return lambda name: Authority(tmp_path, name)
