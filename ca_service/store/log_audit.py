"""What an audit reads of the log's tables, and of those that the log is held against."""

from collections.abc import Collection, Iterator

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.log import PAGE, LogTables, no_leaf, octets
from ca_service.store.rows import CertificateRow, CertificateState, LeafRow, ResponderRow

_GOOD = (CertificateState.ISSUED, CertificateState.SUPERSEDED)
_ENDED = (CertificateState.REVOKED, CertificateState.ABANDONED)


class AuditTables(LogTables):
    """The log's tables as an audit reads them: whatever stands there, and what contradicts itself."""

    def leaves(self, first: int, count: int) -> list[LeafRow]:
        """At most `count` leaves in their order, from position `first` on."""
        table = schema.log_leaves
        query = sa.select(table).where(table.c.position >= first).order_by(table.c.position).limit(count)
        return self._all(LeafRow, query)

    def positions(self, after: object, count: int) -> list[object]:
        """At most `count` positions of leaves in their order, those after `after`; whatever stands there."""
        column = schema.log_leaves.c.position
        query = sa.select(column).order_by(column).limit(count)
        return list(
            self._connection.execute(query if after is None else query.where(column > after)).scalars()
        )

    def leaves_at(self, positions: Collection[int]) -> dict[int, LeafRow]:
        """The leaves at these positions; the hashes beside them are empty where there stands what is none."""
        table = schema.log_leaves
        rows = self._connection.execute(sa.select(table).where(table.c.position.in_(positions)))
        return {
            row.position: LeafRow(
                row.position,
                row.kind,
                row.subject,
                octets(row.data),
                octets(row.hashes) if isinstance(row.hashes, bytes | memoryview) else b"",
            )
            for row in rows
        }

    def responders(self, serials: Collection[str]) -> dict[str, ResponderRow]:
        """The issued certificates of OCSP responders with these serials."""
        table = schema.responders
        rows = self._all(
            ResponderRow, sa.select(table).where(table.c.serial.in_(serials), table.c.der.is_not(None))
        )
        return {row.serial: row for row in rows}

    def without_leaf(self, kind: str) -> Iterator[str]:
        """Ids of the decisions, or serials of the issued certificates, that have no leaf; as they are read.

        `kind` is "decision", "certificate" or "responder".
        """
        decisions, certificates, responders = schema.decisions.c, schema.certificates.c, schema.responders.c
        key, condition = decisions.id, no_leaf(kind, decisions.id)
        if kind == "certificate":
            key = certificates.serial
            condition = sa.and_(certificates.der.is_not(None), no_leaf(kind, key))
        elif kind == "responder":
            key = responders.serial
            condition = sa.and_(responders.der.is_not(None), no_leaf(kind, key))
        query = sa.select(key).where(condition).order_by(key)
        for row in self._connection.execute(query.execution_options(yield_per=PAGE)):
            yield row[0]

    def evidence_digests(self, after: str, count: int) -> list[str]:
        """At most `count` digests of evidence in their order, those after `after`."""
        column = schema.evidence.c.digest
        query = sa.select(column).where(column > after).order_by(column).limit(count)
        return list(self._connection.execute(query).scalars())

    def evidence(self, digests: Collection[str]) -> dict[str, bytes]:
        """The evidence under these digests."""
        table = schema.evidence
        rows = self._connection.execute(
            sa.select(table.c.digest, table.c.body).where(table.c.digest.in_(digests))
        )
        return {row.digest: octets(row.body) for row in rows}

    def policy_versions(self) -> list[int]:
        """All versions of the policy, in their order."""
        column = schema.policies.c.version
        return list(self._connection.execute(sa.select(column).order_by(column)).scalars())

    def missing_evidence(self, count: int) -> list[str]:
        """Digests on which decisions rest, and whose evidence is not there."""
        decisions, evidence = schema.decisions, schema.evidence
        there = sa.exists().where(evidence.c.digest == decisions.c.evidence_digest)
        query = sa.select(decisions.c.evidence_digest).where(~there).distinct().limit(count)
        return list(self._connection.execute(query).scalars())

    def policies_of_decisions(self) -> list[tuple[int, str]]:
        """All (version, digest) by which anything was decided."""
        table = schema.decisions
        query = sa.select(table.c.policy_version, table.c.policy_digest).distinct()
        return [(row.policy_version, row.policy_digest) for row in self._connection.execute(query)]

    def unrevoked(self, count: int) -> list[str]:
        """Serials of certificates that were ended for good and are on no CRL's list."""
        table = schema.certificates
        query = sa.select(table.c.serial).where(table.c.state.in_(_ENDED), ~_revoked())
        return list(self._connection.execute(query.limit(count)).scalars())

    def revived(self, count: int) -> list[str]:
        """Serials of certificates that are revoked and count as good."""
        table = schema.certificates
        query = sa.select(table.c.serial).where(table.c.state.in_(_GOOD), _revoked())
        return list(self._connection.execute(query.limit(count)).scalars())

    def crl_issuers(self) -> list[str]:
        """Subject key ids of the issuers that have published a CRL."""
        query = sa.select(schema.crls.c.issuer).distinct().order_by(schema.crls.c.issuer)
        return list(self._connection.execute(query).scalars())

    def stored_certificates(self, after: str, count: int) -> list[str]:
        """At most `count` serials of issued certificates in their order, those after `after`."""
        table = schema.certificates
        query = sa.select(table.c.serial).where(table.c.serial > after, table.c.der.is_not(None))
        return list(self._connection.execute(query.order_by(table.c.serial).limit(count)).scalars())

    def certificate_rows(self, serials: Collection[str]) -> dict[str, CertificateRow]:
        """The certificates with these serials."""
        table = schema.certificates
        rows = self._all(CertificateRow, sa.select(table).where(table.c.serial.in_(serials)))
        return {row.serial: row for row in rows}

    def unfit(self, count: int) -> list[str]:
        """Serials of certificates whose state does not fit their mark as the live one, or what is stored."""
        table = schema.certificates
        live = table.c.state.in_((CertificateState.ISSUED, CertificateState.INTENDED))
        unsigned = table.c.state.in_((CertificateState.INTENDED, CertificateState.ABANDONED))
        mark = table.c.profile + ":" + table.c.key_name
        # The mark of an ephemeral one ends in a hash over launch and Name, which SQL cannot make: its form is compared.
        start = sa.literal("ephemeral-") + table.c.profile + ":"
        ephemeral = sa.and_(
            sa.func.substr(table.c.live, 1, sa.func.length(start)) == start,
            sa.func.length(table.c.live) == sa.func.length(start) + 64,
        )
        query = sa.select(table.c.serial).where(
            sa.or_(
                sa.and_(live, sa.or_(table.c.live.is_(None), sa.and_(table.c.live != mark, ~ephemeral))),
                sa.and_(~live, table.c.live.is_not(None)),
                sa.and_(unsigned, table.c.der.is_not(None)),
                table.c.state.not_in(tuple(CertificateState)),
            )
        )
        return list(self._connection.execute(query.order_by(table.c.serial).limit(count)).scalars())

    def unreplaced(self, count: int) -> list[str]:
        """Serials of certificates that gave their place to one that is not there, or was never issued."""
        table, other = schema.certificates, schema.certificates.alias()
        replacing = sa.exists().where(
            other.c.replaces == table.c.serial, other.c.state != CertificateState.ABANDONED
        )
        query = sa.select(table.c.serial).where(table.c.state == CertificateState.SUPERSEDED, ~replacing)
        return list(self._connection.execute(query.order_by(table.c.serial).limit(count)).scalars())

    def misplaced_certificates(self, serials: Collection[str]) -> list[str]:
        """Those of the serials whose certificates count as another TPM's than the one in the evidence they rest on.

        What is revoked by its cause is found over the TPM. Decisions of the first releases have no salt, and evidence
        that could not be read says nothing of EKs.
        """
        certificate, intent, decision = schema.certificates.c, schema.intents.c, schema.decisions.c
        tpm, instance, evidence = schema.tpms.c, schema.instances.c, schema.evidence.c
        rows = (
            schema.certificates.join(schema.intents, intent.id == certificate.intent_id)
            .join(schema.decisions, decision.id == intent.decision_id)
            .join(schema.evidence, evidence.digest == decision.evidence_digest)
            .outerjoin(schema.tpms, tpm.id == certificate.tpm_id)
            .outerjoin(schema.instances, instance.id == tpm.instance_id)
        )
        other = sa.or_(
            instance.id.is_(None),
            instance.kbs_id != decision.kbs_id,
            instance.resource != decision.resource,
            sa.and_(decision.salt != "", instance.salt != decision.salt),
            tpm.ek_set != evidence.ek_set,
        )
        query = sa.select(certificate.serial).select_from(rows).where(certificate.serial.in_(serials), other)
        return list(self._connection.execute(query.order_by(certificate.serial)).scalars())

    def revoking_issuers(self) -> list[str]:
        """Subject key ids of the issuers that have revoked anything."""
        return list(self._connection.execute(sa.select(schema.revocations.c.issuer).distinct()).scalars())

    def crl_numbers(self, issuer: str) -> dict[int, list[int]]:
        """Numbers of all CRLs of an issuer by shard, in their order."""
        table = schema.crls
        query = sa.select(table.c.shard, table.c.number).where(table.c.issuer == issuer)
        numbers = dict[int, list[int]]()
        for row in self._connection.execute(query.order_by(table.c.shard, table.c.number)):
            numbers.setdefault(row.shard, []).append(row.number)
        return numbers

    def revoked_by(self, issuer: str) -> dict[str, int]:
        """Everything that an issuer has revoked: the shard by serial."""
        table = schema.revocations
        query = sa.select(table.c.serial, table.c.shard).where(table.c.issuer == issuer)
        return {row.serial: row.shard for row in self._connection.execute(query)}

    def misplaced(self, count: int) -> list[str]:
        """Serials whose revocation stands in another shard than their certificates name."""
        certificates, revocations = schema.certificates.c, schema.revocations.c
        query = sa.select(revocations.serial).where(
            certificates.serial == revocations.serial,
            certificates.issuer == revocations.issuer,
            certificates.shard != revocations.shard,
        )
        return list(self._connection.execute(query.order_by(revocations.serial).limit(count)).scalars())

    def good_among(self, issuer: str, serials: Collection[str]) -> set[str]:
        """Those of the serials that are of certificates of this issuer that count as good."""
        table = schema.certificates
        query = sa.select(table.c.serial).where(
            table.c.issuer == issuer, table.c.serial.in_(serials), table.c.state.in_(_GOOD)
        )
        return set(self._connection.execute(query).scalars())


def _revoked() -> "sa.ColumnElement[bool]":
    certificates, revocations = schema.certificates, schema.revocations
    return sa.exists().where(
        revocations.c.issuer == certificates.c.issuer, revocations.c.serial == certificates.c.serial
    )
