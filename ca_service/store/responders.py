"""Certificates of the CA's own OCSP responders, and what is known about serial numbers in general."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, ClassVar

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.repository import Repository
from ca_service.store.rows import CertificateState, ResponderRow

_GOOD = (CertificateState.ISSUED, CertificateState.SUPERSEDED)


class Responders(Repository):
    """Certificates of OCSP responders, from the intent on."""

    enums: ClassVar[Mapping[str, Any]] = {"state": CertificateState}

    def add(self, row: ResponderRow) -> None:
        """Reserve the serial and keep the bytes to be signed."""
        self._connection.execute(schema.responders.insert(), dict(vars(row)))

    def of_issuer(self, issuer: str, state: CertificateState) -> list[ResponderRow]:
        """Those of an issuing CA (subject key id, hex) in one state, the one that ends last first."""
        table = schema.responders
        query = sa.select(table).where(table.c.issuer == issuer, table.c.state == state)
        return self._all(ResponderRow, query.order_by(table.c.not_after.desc(), table.c.serial))

    def issue(self, serial: str, der: bytes, at: datetime) -> bool:
        """Store the signed certificate; says whether it was still intended."""
        return self._change(serial, state=CertificateState.ISSUED, der=der, issued_at=at)

    def abandon(self, serial: str) -> bool:
        """It will never be signed; says whether it was still intended."""
        return self._change(serial, state=CertificateState.ABANDONED)

    def _change(self, serial: str, **values: object) -> bool:
        table = schema.responders
        this = sa.and_(table.c.serial == serial, table.c.state == CertificateState.INTENDED)
        return self._connection.execute(table.update().where(this).values(values)).rowcount == 1

    def issued_among(self, issuer: str, serials: Collection[str]) -> set[str]:
        """Those of the serials (hex) that the issuer has issued, to a TPM or to a responder; a few hundred at most."""
        found = set[str]()
        for table in (schema.certificates, schema.responders):
            query = sa.select(table.c.serial).where(
                table.c.serial.in_(serials), table.c.issuer == issuer, table.c.state.in_(_GOOD)
            )
            found |= set(self._connection.execute(query).scalars())
        return found
