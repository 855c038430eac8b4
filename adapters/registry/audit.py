"""The audit log: each change with its time, its actor and the key that was used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from adapters.models import Actor, AuditEntry
from adapters.registry.database import DatabasePart
from adapters.registry.schema import tables

_T = tables.audit


class Audit(DatabasePart):
    """The audit log; `Database.change` writes it with each change, and `note` what changed nothing."""

    async def note(self, by: Actor, action: str, subject: str, details: Mapping[str, Any]) -> None:
        """Write down what was refused."""
        async with self._database.change(by, action, subject, details):
            pass

    async def revision(self, *, probing: bool = False) -> int:
        """A number that grows with every change: data cached at another revision is stale.

        `probing` asks even a database that is known to be away. Raises: RegistryUnavailable.
        """
        async with self._database.read(probing=probing) as connection:
            counter = sa.select(tables.counters.c.value).where(tables.counters.c.name == "revision")
            return int((await connection.execute(counter)).scalar_one())

    async def list(self, *, subject: str | None = None, limit: int = 100) -> tuple[AuditEntry, ...]:
        """The newest entries, newest first; `subject` also matches its versions (`acme-support@3`)."""
        query = sa.select(_T).order_by(_T.c.id.desc()).limit(limit)
        if subject is not None:
            versions = sa.and_(_T.c.subject >= subject + "@", _T.c.subject < subject + "A")
            query = query.where(sa.or_(_T.c.subject == subject, versions))
        async with self._database.read() as connection:
            return tuple(AuditEntry(**row) for row in (await connection.execute(query)).mappings())
