"""Which version answered which request, on whichever server; kept for a day, for feedback."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from adapters.models import Version, VersionState
from adapters.registry.database import DatabasePart, insert_into, utc_now
from adapters.registry.schema import replica_tables, tables
from adapters.registry.schema.rows import version_of

_A, _V = replica_tables.answers, tables.versions
_KEPT = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class AnswerRecord:
    """One answer. `caller` is the tenant of the key, "" for an operator; no version: the base model."""

    caller: str
    request_id: str
    version: Version | None


class Answers(DatabasePart):
    """The answers of all servers."""

    async def add(self, records: Iterable[AnswerRecord]) -> None:
        """Remember answers; of one id the last. Raises: RegistryUnavailable."""
        rows = {(record.caller, record.request_id): _row(record) for record in records}
        if not rows:
            return
        insert = insert_into(self._database.engine.dialect, _A)
        replaced = {name: insert.excluded[name] for name in ("tenant", "adapter", "version", "at")}
        added = insert.on_conflict_do_update(index_elements=[_A.c.caller, _A.c.request_id], set_=replaced)
        async with self._database.write() as connection:
            await connection.execute(added, list(rows.values()))

    async def find(self, caller: str, request_ids: Collection[str]) -> AnswerRecord | None:
        """The newest answer to one of these ids. Raises: RegistryUnavailable."""
        same = sa.and_(_V.c.tenant == _A.c.tenant, _V.c.adapter == _A.c.adapter, _V.c.number == _A.c.version)
        columns = [column.label(f"version_{column.name}") for column in _V.columns]
        query = (
            sa.select(_A, *columns)
            .select_from(sa.outerjoin(_A, _V, same))
            .where(_A.c.caller == caller, _A.c.request_id.in_(tuple(request_ids)))
            .order_by(_A.c.at.desc())
            .limit(1)
        )
        async with self._database.read() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            return None
        return AnswerRecord(caller, row["request_id"], _version_of(row))

    async def forget(self) -> None:
        """Delete old answers. Raises: RegistryUnavailable."""
        async with self._database.write() as connection:
            await connection.execute(sa.delete(_A).where(_A.c.at < utc_now() - _KEPT))


def _version_of(row: RowMapping) -> Version | None:
    if row["version_tenant"] is not None:
        return version_of(row, "version_")
    if row["tenant"] is None:
        return None
    # A blend of a request: it stands for no version, but feedback is kept under its name.
    named = {name: row[name] for name in ("tenant", "adapter")}
    return Version(
        **named, number=row["version"], engine_id=0, state=VersionState.READY, source="", created_at=row["at"]
    )


def _row(record: AnswerRecord) -> dict[str, object]:
    version = record.version
    return {
        "caller": record.caller,
        "request_id": record.request_id,
        "tenant": version.tenant if version else None,
        "adapter": version.adapter if version else None,
        "version": version.number if version else None,
        "at": utc_now(),
    }
