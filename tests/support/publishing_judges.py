"""What programs of others say about a certificate of this CA, given one revocation list."""

import subprocess
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding


def crl_url(certificate: x509.Certificate) -> str:
    """The one place in a certificate's cRLDistributionPoints."""
    (point,) = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    (name,) = point.full_name
    return name.value


def _files(folder: Path, world, certificate: bytes, crl: bytes) -> dict[str, Path]:
    loaded = x509.load_der_x509_certificate(certificate)
    issuer = next(ca for ca in world.authority.issuers if ca.certificate.subject == loaded.issuer)
    content = {
        "root.pem": world.authority.root.public_bytes(Encoding.PEM),
        "issuer.pem": issuer.certificate.public_bytes(Encoding.PEM),
        "leaf.pem": loaded.public_bytes(Encoding.PEM),
        "list.pem": x509.load_der_x509_crl(crl).public_bytes(Encoding.PEM),
    }
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return {name.removesuffix(".pem"): folder / name for name in content}


def openssl_verify(folder: Path, world, certificate: bytes, crl: bytes) -> str:
    """`openssl verify -crl_check`: "good", "revoked", or what it says else."""
    files = _files(folder, world, certificate, crl)
    at = str(int(world.time.timestamp()) + 1)
    command = ["openssl", "verify", "-crl_check", "-attime", at, "-CAfile", files["root"]]
    # The subjectAltName of an EK is critical and holds what OpenSSL does not process.
    command += ["-ignore_critical", "-untrusted", files["issuer"], "-CRLfile", files["list"], files["leaf"]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return "good"
    return "revoked" if "certificate revoked" in done.stderr else done.stderr
