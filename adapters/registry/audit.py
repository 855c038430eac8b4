"""The audit log: each change with its time, its actor and the key that was used."""

from __future__ import annotations

import sqlalchemy as sa

from adapters.models import AuditEntry
from adapters.registry.database import DatabasePart
from adapters.registry.schema import tables

_T = tables.audit


class Audit(DatabasePart):
    """The audit log; only `Database.change` writes it."""

    async def revision(self, *, probing: bool = False) -> int:
        """A number that grows with every change: data cached at another revision is stale.

        `probing` asks even a database that is known to be away. Raises: RegistryUnavailable.
        """
        async with self._database.read(probing=probing) as connection:
            counter = sa.select(tables.counters.c.value).where(tables.counters.c.name == "revision")
            return int((await connection.execute(counter)).scalar_one())

    async def list(
        self, *, subject: str | None = None, tenant: str | None = None, limit: int = 100
    ) -> tuple[AuditEntry, ...]:
        """The newest entries, newest first.

        Args:
            subject: also matches its versions (`acme-support@3`).
            tenant: only changes of this tenant, its adapters and its keys.
            limit: the most that are returned.
        """
        query = sa.select(_T).order_by(_T.c.id.desc()).limit(limit)
        if subject is not None:
            versions = sa.and_(_T.c.subject >= subject + "@", _T.c.subject < subject + "A")
            query = query.where(sa.or_(_T.c.subject == subject, versions))
        if tenant is not None:
            keys = sa.select(tables.keys.c.id).where(tables.keys.c.tenant == tenant)
            of_adapters = _T.c.subject.startswith(tenant + "-", autoescape=True)
            query = query.where(sa.or_(_T.c.subject == tenant, of_adapters, _T.c.subject.in_(keys)))
        async with self._database.read() as connection:
            return tuple(AuditEntry(**row) for row in (await connection.execute(query)).mappings())
