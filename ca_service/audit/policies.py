"""The digest of a policy that may come from anybody: only its content has one, not its bytes, so it must be read."""

from ca_service.policy import load
from ca_service.policy.bounds import MAX_POLICY, check_bounds

__all__ = ["MAX_POLICY", "digest_of_policy"]


def digest_of_policy(content: bytes) -> str:
    """Read a policy, within bounds, for its digest; raises BadRequest or ValueError."""
    check_bounds(content)
    return load(content.decode("utf-8")).digest
