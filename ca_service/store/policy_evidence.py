"""The recorded evidence that tests of policy documents name: kept so that they can be run again."""

import hashlib
from collections.abc import Mapping
from datetime import datetime

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.policy_rows import PolicyEvidenceRow, PolicyFileRow
from ca_service.store.repository import Repository


class PolicyEvidence(Repository):
    """Files by their SHA-256, and which of them a document means by a path."""

    def get(self, digest: str) -> bytes | None:
        """The file with this SHA-256 in hex; None if there is none."""
        row = self._get(PolicyEvidenceRow, schema.policy_evidence, digest=digest)
        return None if row is None else row.body

    def files(self, policy: str) -> dict[str, str]:
        """What the document with this digest means by its paths: SHA-256 of each file by path."""
        rows = self._find(PolicyFileRow, schema.policy_files, policy=policy)
        return {row.path: row.evidence for row in rows}

    def keep(self, policy: str, files: Mapping[str, bytes], at: datetime) -> None:
        """Keep what a document means by its paths from now on; a file that is kept already is kept once.

        Args:
            policy: the document's digest.
            files: content by path.
            at: now.
        """
        table = schema.policy_files
        self._connection.execute(sa.delete(table).where(table.c.policy == policy))
        digests = {path: hashlib.sha256(body).hexdigest() for path, body in files.items()}
        bodies = {digests[path]: body for path, body in files.items()}
        known = self._known(bodies)
        new = [
            {"digest": digest, "body": body, "kept_at": at}
            for digest, body in bodies.items()
            if digest not in known
        ]
        self._insert_all(schema.policy_evidence, new)
        rows = [{"policy": policy, "path": path, "evidence": digest} for path, digest in digests.items()]
        self._insert_all(table, rows)

    def _known(self, digests: Mapping[str, bytes]) -> set[str]:
        table = schema.policy_evidence
        query = sa.select(table.c.digest).where(table.c.digest.in_(digests))
        return {row.digest for row in self._connection.execute(query)}
