"""CAs for TLS, whose certificates and keys are files."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PEM = serialization.Encoding.PEM


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

    def _builder(self, subject, key, hours: float = 1.0):
        at = datetime.now(UTC)
        return x509.CertificateBuilder(
            self._name,
            subject,
            key,
            x509.random_serial_number(),
            at - timedelta(hours=1),
            at + timedelta(hours=hours),
        )

    def issue(self, file: str, *common_names: str, uris=(), dns=(), hours: float = 1.0, usage=None):
        """Certificate and key, as files; it ends in so many hours, and may have an extended key usage."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name) for name in common_names])
        builder = self._builder(subject, key.public_key(), hours)
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        names = [*map(x509.UniformResourceIdentifier, uris), *map(x509.DNSName, dns)]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not common_names)
        paths = self._folder / f"{file}.pem", self._folder / f"{file}.key"
        paths[0].write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(PEM))
        form = serialization.PrivateFormat.PKCS8
        paths[1].write_bytes(key.private_bytes(PEM, form, serialization.NoEncryption()))
        return paths
