"""The audit log: each change with its time, its actor and the key that was used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from adapters.models import Actor, AuditEntry
from adapters.registry.database import DatabasePart
from adapters.registry.schema import tables

_T = tables.audit
_OTHERS = tuple(column for column in _T.c if column.name != "actor")


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
        tenant: str | None = None,
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
            tenant: only changes of this tenant, its adapters and its keys; other actors are shown as `operator`.
            subject: a model (also matches its versions, `acme-support@3`), a version, a tenant or a key.
            actor: who made the change.
            action: the action, or how it begins (`key.`).
            search: text within actor, action or subject.
            since, until: from this time on, and before that one.
            before: only entries with a smaller id, to read on after the last one of a page.
            limit: the most entries.
        """
        shown = _T.c.actor if tenant is None else _actor_seen_by(tenant)
        query = sa.select(*_OTHERS, shown.label("actor")).order_by(_T.c.id.desc()).limit(limit)
        if tenant is not None:
            query = query.where(_of_tenant(tenant))
        if subject is not None:
            query = query.where(_names(subject))
        if actor is not None:
            query = query.where(shown == actor)
        if action is not None:
            query = query.where(_T.c.action.startswith(action, autoescape=True))
        if search is not None:
            query = query.where(_contains(search, shown))
        query = query.where(*_between(since, until, before))
        async with self._database.read() as connection:
            return tuple(AuditEntry(**row) for row in (await connection.execute(query)).mappings())


def _of_tenant(tenant: str) -> sa.ColumnElement[bool]:
    keys = sa.select(tables.keys.c.id).where(tables.keys.c.tenant == tenant)
    of_adapters = _T.c.subject.startswith(tenant + "-", autoescape=True)
    return sa.or_(_T.c.subject == tenant, of_adapters, _T.c.subject.in_(keys))


def _between(
    since: datetime | None, until: datetime | None, before: int | None
) -> Iterator[sa.ColumnElement[bool]]:
    if since is not None:
        yield _T.c.at >= since
    if until is not None:
        yield _T.c.at < until
    if before is not None:
        yield _T.c.id < before


def _names(subject: str) -> sa.ColumnElement[bool]:
    versions = sa.and_(_T.c.subject >= subject + "@", _T.c.subject < subject + "A")
    return sa.or_(_T.c.subject == subject, versions)


def _actor_seen_by(tenant: str) -> sa.ColumnElement[str]:
    """The actor, with one name for all operators: their names, also at a shell, are their own."""
    is_own = sa.or_(_T.c.actor == tenant, _T.c.actor.endswith(f" ({tenant})", autoescape=True))
    is_operator = sa.or_(_T.c.key_id.is_not(None), _T.c.actor.contains(":"))
    return sa.case((is_own, _T.c.actor), (is_operator, "operator"), else_=_T.c.actor)


def _contains(text: str, actor: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    return sa.or_(*(column.icontains(text, autoescape=True) for column in (actor, _T.c.action, _T.c.subject)))
