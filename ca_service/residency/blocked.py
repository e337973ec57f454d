"""Keys that get no certificate because an operator said so: their private half is known to others.

What is looked at are digests: the list of blocked ones is the database's, and whoever judges hands it in as it was in
the transaction of the decision.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca_service.judgment import Check, Finding, failed, passed
from vtpm.wire.runtime_data import TpmStatement
from vtpm.wire.templates import parse_public

KEY_NOT_BLOCKED: Final = "key.not-blocked"
"""The rule that refuses keys on the block list."""


def spki_digests(statement: TpmStatement) -> dict[str, str]:
    """The keys of a TPM as the block list names them.

    Returns:
        SHA-256 over the DER SubjectPublicKeyInfo in hex, by place in the statement: ``ek[0]``, ``iak``, ``idevid``.

    Raises:
        WireError: a public area is malformed, or its point is not on its curve.
    """
    stated = {f"ek[{i}]": key for i, key in enumerate(statement.eks)}
    stated |= {"iak": statement.iak, "idevid": statement.idevid}
    digests = {}
    for at, key in stated.items():
        public = parse_public(key.public, f"tpm.{at}.pub").public_key()
        spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        digests[at] = hashlib.sha256(spki).hexdigest()
    return digests


@dataclass(frozen=True)
class KeyBlocks:
    """The keys of a TPM, and those of them that are blocked.

    Attributes:
        digests: as `spki_digests` gives them.
        blocked: blocked digests; at least those among `digests` that are.
    """

    digests: Mapping[str, str]
    blocked: frozenset[str]


@dataclass(frozen=True)
class _NotBlocked:
    """No key of the TPM is on the block list."""

    id: str = KEY_NOT_BLOCKED

    def judge(self, subject: KeyBlocks) -> Finding:
        """Name every key that is; no key at all is not what was meant."""
        if not subject.digests:
            return failed(self, "there is no key to look up")
        wrong = [at for at, digest in subject.digests.items() if digest in subject.blocked]
        if wrong:
            return failed(
                self,
                f"this CA certifies this key no more: {', '.join(wrong)}",
                actual=", ".join(f"{at}: {subject.digests[at]}" for at in wrong),
            )
        return passed(self)


BLOCK_CHECKS: tuple[Check[KeyBlocks], ...] = (_NotBlocked(),)
