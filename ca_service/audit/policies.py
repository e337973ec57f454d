"""The digest of a policy that may come from anybody: only its content has one, not its bytes, so it must be read."""

from ca_service.policy import load

MAX_POLICY = 16 * 1024 * 1024
"""Largest policy, in bytes; a CA puts none in force that is longer."""


def digest_of_policy(content: bytes) -> str:
    """Read a policy, within bounds, for its digest; raises BadRequest or ValueError."""
    if len(content) > MAX_POLICY:
        raise ValueError("no policy is like this")
    return load(content.decode("utf-8")).digest
