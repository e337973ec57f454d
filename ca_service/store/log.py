"""The tables of the Merkle log; what they mean, `ca_service.audit` knows."""

from collections.abc import Collection, Iterable

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.repository import Repository
from ca_service.store.rows import HeadRow, LeafRow

_HEAD = 1


class LogTables(Repository):
    """Leaves, hashes of complete subtrees, and the head. Nothing here is ever changed but the head."""

    def head(self, *, lock: bool = False) -> HeadRow | None:
        """The log's present state; with `lock`, no other transaction appends until this one ends."""
        query = sa.select(schema.log_head).where(schema.log_head.c.id == _HEAD)
        return self._one(HeadRow, query.with_for_update() if lock else query)

    def set_head(self, row: HeadRow, *, first: bool) -> None:
        """Store the new state."""
        values = {"size": row.size, "frontier": row.frontier, "checkpoint": row.checkpoint, "at": row.at}
        table = schema.log_head
        if first:
            self._connection.execute(table.insert().values(id=_HEAD, **values))
        else:
            self._update(table, table.c.id == _HEAD, **values)

    def add_leaves(self, rows: Iterable[LeafRow]) -> None:
        """Append leaves; the database refuses a position, or a subject of one kind, twice."""
        values = [
            {"position": row.position, "kind": row.kind, "subject": row.subject, "data": row.data}
            for row in rows
        ]
        if values:
            self._connection.execute(schema.log_leaves.insert(), values)

    def add_nodes(self, nodes: Iterable[tuple[int, int, bytes]]) -> None:
        """Store hashes: (level, position within the level, hash)."""
        values = [{"level": level, "position": position, "hash": hash_} for level, position, hash_ in nodes]
        if values:
            self._connection.execute(schema.log_nodes.insert(), values)

    def nodes(self, places: Collection[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        """The hashes at these (level, position)."""
        table = schema.log_nodes
        if not places:
            return {}
        wanted = sa.or_(
            *(sa.and_(table.c.level == level, table.c.position == position) for level, position in places)
        )
        rows = self._connection.execute(sa.select(table).where(wanted))
        return {(row.level, row.position): bytes(row.hash) for row in rows}

    def leaf(self, kind: str, subject: str) -> LeafRow | None:
        """The leaf about this subject."""
        table = schema.log_leaves
        return self._one(LeafRow, sa.select(table).where(table.c.kind == kind, table.c.subject == subject))

    def leaves(self, first: int, count: int) -> list[LeafRow]:
        """Leaves in their order, from position `first` on."""
        table = schema.log_leaves
        query = sa.select(table).where(table.c.position >= first, table.c.position < first + count)
        return self._all(LeafRow, query.order_by(table.c.position))
