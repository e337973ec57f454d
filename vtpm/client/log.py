"""Do the certificates stand in the CA's log?

A CA that hides a certificate from its auditors must not get it accepted. Whoever holds the log's verifier key can ask
for that; the key must come from elsewhere than the answer, for the host relays it.
"""

import hashlib

from vtpm.errors import VtpmError
from vtpm.wire.encoding import Members, parse_json
from vtpm.wire.enrollment import CertificatesReply
from vtpm.wire.errors import WireError
from vtpm.wire.log import MAX_LEAF, Checkpoint, Proof, open_checkpoint
from vtpm.wire.note import VerifierKey


def check_logged(reply: CertificatesReply, key: VerifierKey) -> Checkpoint:
    """Hold each certificate against its leaf, and each leaf against the signed checkpoint.

    Returns:
        The checkpoint; who keeps it can later demand that the log has only grown.

    Raises:
        VtpmError: the answer has no proof (rule ``log.proof-present``), the checkpoint is not this log's
            (``log.checkpoint``), or a certificate does not stand in it (``log.inclusion``).
    """
    if reply.checkpoint is None:
        raise VtpmError("the CA's answer does not say that it is logged", rule="log.proof-present")
    try:
        checkpoint = open_checkpoint(reply.checkpoint, key)
    except WireError as error:
        raise VtpmError(f"the checkpoint is not the log's: {error}", rule="log.checkpoint") from error
    for entry in reply.entries:
        if entry.log is None:
            raise VtpmError("a certificate has no proof that it is logged", rule="log.proof-present")
        if not (_is_about(entry.log, entry.certificate) and entry.log.holds(checkpoint)):
            raise VtpmError("a certificate does not stand in the CA's log", rule="log.inclusion")
    return checkpoint


def _is_about(proof: Proof, certificate: bytes) -> bool:
    """Whether the leaf is this certificate's; its further members are for auditors."""
    try:
        leaf = Members(parse_json(proof.leaf, most=MAX_LEAF))
        return (
            leaf.integer("v", 1, 1) == 1
            and leaf.text("kind") == "certificate"
            and leaf.text("sha256") == hashlib.sha256(certificate).hexdigest()
        )
    except WireError:
        return False
