"""The audit log: each change with its time, its actor and the key that was used."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
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

    async def list(
        self,
        *,
        subject: str | None = None,
        actor: str | None = None,
        action: str | None = None,
        search: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> tuple[AuditEntry, ...]:
        """The newest entries that match all filters, newest first.

        Args:
            subject: a model (also matches its versions, `acme-support@3`), a version, a tenant or a key.
            actor: who made the change.
            action: the action, or how it begins (`key.`).
            search: text within actor, action or subject.
            since, until: from this time on, and before that one.
            before: only entries with a smaller id, to read on after the last one of a page.
            limit: the most entries.
        """
        query = sa.select(_T).order_by(_T.c.id.desc()).limit(limit)
        if subject is not None:
            query = query.where(_names(subject))
        if actor is not None:
            query = query.where(_T.c.actor == actor)
        if action is not None:
            query = query.where(_T.c.action.startswith(action, autoescape=True))
        if search is not None:
            query = query.where(_contains(search))
        if since is not None:
            query = query.where(_T.c.at >= since)
        if until is not None:
            query = query.where(_T.c.at < until)
        if before is not None:
            query = query.where(_T.c.id < before)
        async with self._database.read() as connection:
            return tuple(AuditEntry(**row) for row in (await connection.execute(query)).mappings())


def _names(subject: str) -> sa.ColumnElement[bool]:
    versions = sa.and_(_T.c.subject >= subject + "@", _T.c.subject < subject + "A")
    return sa.or_(_T.c.subject == subject, versions)


def _contains(text: str) -> sa.ColumnElement[bool]:
    return sa.or_(
        *(column.icontains(text, autoescape=True) for column in (_T.c.actor, _T.c.action, _T.c.subject))
    )
