"""The log's key: Ed25519, sealed like the CA's other secrets."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ca_service.keys.facts import LogEntry
from vtpm.wire.encoding import b64url


def log_entry(ca_id: str, seed: bytes) -> LogEntry:
    """What ``ca.toml`` says of a log.

    Args:
        ca_id: the CA's name in the protocol; the log's origin is made from it.
        seed: the 32 bytes from which RFC 8032 makes the key.
    """
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return LogEntry(origin=f"{ca_id}/log", public=b64url(public))
