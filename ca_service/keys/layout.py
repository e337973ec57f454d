"""Where things lie in a CA's directory, and under which purposes its secrets are sealed.

Layout of the directory::

    ca.toml                      public facts
    transcript.json, .txt        what the ceremony did
    certs/root.pem               and certs/<role>-<pair>.pem; later generations: certs/<role>-<pair>.g<N>.pem
    crl/root.crl                 the root's revocation list; certs/root.crl is a copy of it
    private/<role>-<pair>.sealed keys of the issuing CAs, named like their certificates
    private/nonce.sealed         key from which the keys of the nonces' MAC are made
    private/activation.sealed    key from which activation secrets are derived
    private/log.sealed           key that signs the log's checkpoints
    offline/root.sealed          the root's key, unless the ceremony put it elsewhere; belongs into a safe
    private.next/, private.former/  only while the passphrase is being changed
    run/                         sockets and locks of the running server
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ca_service.profiles import IssuerRole

FACTS_FILE = "ca.toml"
TRANSCRIPT_FILE = "transcript.json"
TRANSCRIPT_TEXT_FILE = "transcript.txt"

CERTIFICATES = "certs"
LISTS = "crl"
PRIVATE = "private"
PRIVATE_NEXT = "private.next"
PRIVATE_FORMER = "private.former"
OFFLINE = "offline"
RUN = "run"

ROOT_CERTIFICATE_FILE = "root.pem"
ROOT_LIST_FILE = "root.crl"
ROOT_KEY_FILE = "root.sealed"
NONCE_KEY_FILE = "nonce.sealed"
ACTIVATION_KEY_FILE = "activation.sealed"
LOG_KEY_FILE = "log.sealed"
KEYS_LOCK_FILE = "keys.lock"

SECRET_SIZE = 32
"""Size of the symmetric keys and of the log's Ed25519 seed, in bytes."""

ROOT_PURPOSE = "root key"
NONCE_PURPOSE = "nonce key"
ACTIVATION_PURPOSE = "activation key"
LOG_PURPOSE = "log key"


def issuer_purpose(role: "IssuerRole", pair: str, generation: int = 1) -> str:
    """Purpose under which the key of an issuing CA is sealed."""
    later = f", generation {generation}" if generation > 1 else ""
    return f"{role} CA key, pair {pair}{later}"


def issuer_stem(role: "IssuerRole", pair: str, generation: int = 1) -> str:
    """Stem of the names of an issuing CA's files. No pair has a dot in its name, so no two stems are equal."""
    return f"{role}-{pair}" + (f".g{generation}" if generation > 1 else "")
