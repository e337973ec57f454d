"""A CA's directory of an earlier release gets what this one needs. Nothing here needs the root's key."""

from pathlib import Path

from ca_service.judgment import Unavailable
from ca_service.keys import files
from ca_service.keys.facts import CaFacts
from ca_service.keys.layout import (
    FACTS_FILE,
    KEYS_LOCK_FILE,
    LOG_KEY_FILE,
    LOG_PURPOSE,
    NONCE_KEY_FILE,
    NONCE_PURPOSE,
    PRIVATE,
    RUN,
    SECRET_SIZE,
)
from ca_service.keys.log import log_entry
from ca_service.keys.opening import load_public, read_facts
from ca_service.keys.rewording import settle_private
from ca_service.keys.sealed import Sealer
from ca_service.profiles import Entropy


def upgrade_directory(directory: Path, passphrase: bytes, entropy: Entropy) -> list[str]:
    """Add what the directory lacks; what it has stays as it is. Running it again does nothing.

    Args:
        directory: the CA's directory.
        passphrase: opens the CA's other secrets and seals the new one.
        entropy: source of the new key and of salts.

    Returns:
        One sentence about each thing that was added; none if nothing was missing.

    Raises:
        NotFound: there is no CA in that directory.
        BadRequest: the directory is malformed, or the passphrase is another one (code ``passphrase``).
        Unavailable: the directory cannot be written (``storage``), or another process works on it (``busy``).
    """
    load_public(directory)
    try:
        with files.locked(directory / RUN / KEYS_LOCK_FILE):
            settle_private(directory)
            facts = read_facts(directory)
            if facts.log is not None:
                return []
            return [_add_log(directory, facts, Sealer(passphrase), entropy)]
    except OSError as error:
        raise Unavailable(f"{directory} cannot be written: {error.strerror}", code="storage") from error


def promise_state(directory: Path) -> None:
    """Note in ``ca.toml`` that the CA remembers in ``state/``, once it does. Running it again does nothing.

    Raises:
        NotFound: there is no CA in that directory.
        BadRequest: the directory is malformed.
        Unavailable: the directory cannot be written (``storage``), or another process works on it (``busy``).
    """
    try:
        with files.locked(directory / RUN / KEYS_LOCK_FILE):
            facts = read_facts(directory)
            if not facts.state_kept:
                _write_facts(directory, facts.model_copy(update={"state_kept": True}))
    except OSError as error:
        raise Unavailable(f"{directory} cannot be written: {error.strerror}", code="storage") from error


def _write_facts(directory: Path, facts: CaFacts) -> None:
    text = facts.to_toml()
    CaFacts.from_toml(text)
    files.replace_file(directory / FACTS_FILE, text.encode(), files.PUBLIC_FILE)


def _add_log(directory: Path, facts: CaFacts, sealer: Sealer, entropy: Entropy) -> str:
    private = directory / PRIVATE
    # A key under a mistyped passphrase would lock the CA out of its own log.
    sealer.unseal(files.read_private(private / NONCE_KEY_FILE), purpose=NONCE_PURPOSE)
    seed = entropy(SECRET_SIZE)
    sealed = sealer.seal(seed, purpose=LOG_PURPOSE, entropy=entropy)
    # A key that ca.toml does not name has signed nothing yet: a try that died may have left it.
    files.replace_file(private / LOG_KEY_FILE, sealed, files.PRIVATE_FILE)
    log = log_entry(facts.ca_id, seed)
    _write_facts(directory, facts.model_copy(update={"log": log}))
    return f"the log {log.origin} has a key: Ed25519 {log.public}"
