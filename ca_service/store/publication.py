"""Revoked serials and published CRLs."""

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.repository import Repository
from ca_service.store.rows import CrlRow, RevocationRow


class Revocations(Repository):
    """Serials on the CRLs. There is no way to take one off."""

    def add(self, row: RevocationRow) -> bool:
        """Put a serial on its issuer's next CRL; says whether it was not there yet."""
        if self.get(row.issuer, row.serial) is not None:
            return False
        self._insert(schema.revocations, row)
        return True

    def get(self, issuer: str, serial: str) -> RevocationRow | None:
        """The revocation of one serial."""
        return self._get(RevocationRow, schema.revocations, issuer=issuer, serial=serial)

    def of_issuer(self, issuer: str) -> list[RevocationRow]:
        """Everything that an issuer has revoked, by serial."""
        table = schema.revocations
        return self._all(
            RevocationRow, sa.select(table).where(table.c.issuer == issuer).order_by(table.c.serial)
        )


class Crls(Repository):
    """CRLs as they were published, byte for byte."""

    def latest(self, issuer: str) -> CrlRow | None:
        """The CRL in force of an issuer (subject key id in hex)."""
        table = schema.crls
        query = sa.select(table).where(table.c.issuer == issuer).order_by(table.c.number.desc()).limit(1)
        return self._one(CrlRow, query)

    def get(self, issuer: str, number: int) -> CrlRow | None:
        """An issuer's CRL of this number."""
        return self._get(CrlRow, schema.crls, issuer=issuer, number=number)

    def add(self, row: CrlRow) -> None:
        """Publish a CRL; the database refuses a number twice."""
        self._insert(schema.crls, row)
