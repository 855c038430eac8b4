"""How the answers of versions with a part of the traffic ended, counted over all servers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from adapters.models import Alias
from adapters.registry.database import DatabasePart, insert_into, utc_now
from adapters.registry.schema import replica_tables, tables

_O, _L = replica_tables.outcomes, tables.aliases
#: Older counts are deleted.
_KEPT = timedelta(hours=1)
#: The minute of the row that has the sum of all minutes.
_WHOLE = datetime(1970, 1, 1, tzinfo=UTC)


class Outcomes(DatabasePart):
    """The counts of all servers, for one state of an alias at a time. Kinds are any short names."""

    async def add(self, alias: Alias, counts: Mapping[tuple[int, str], int]) -> None:
        """Add counts by (version number, kind), to this minute and to the whole. Raises: RegistryUnavailable."""
        minute = utc_now().replace(second=0, microsecond=0)
        rows = [
            {
                "tenant": alias.tenant,
                "adapter": alias.adapter,
                "version": number,
                "generation": alias.generation,
                "kind": kind,
                "minute": when,
                "count": count,
            }
            for (number, kind), count in sorted(
                counts.items()
            )  # in the same order on every server: no deadlock
            for when in (_WHOLE, minute)
        ]
        if not rows:
            return
        insert = insert_into(self._database.engine.dialect, _O)
        key = [column for column in _O.columns if column.name != "count"]
        added = insert.on_conflict_do_update(
            index_elements=key, set_={"count": _O.c["count"] + insert.excluded["count"]}
        )
        async with self._database.write() as connection:
            await connection.execute(added, rows)

    async def totals(self, alias: Alias, since: datetime | None = None) -> dict[int, Counter[str]]:
        """Counts by version number and kind, of all time that the alias has been as it is now.

        With `since`: only from this minute on, at most an hour ago. Raises: RegistryUnavailable.
        """
        query = sa.select(_O.c.version, _O.c.kind, sa.func.sum(_O.c["count"])).where(
            _O.c.tenant == alias.tenant,
            _O.c.adapter == alias.adapter,
            _O.c.generation == alias.generation,
            _O.c.minute == _WHOLE if since is None else _O.c.minute >= max(since, utc_now() - _KEPT),
        )
        found: dict[int, Counter[str]] = {}
        async with self._database.read() as connection:
            rows = await connection.execute(query.group_by(_O.c.version, _O.c.kind))
            for number, kind, total in rows:
                found.setdefault(number, Counter())[kind] = int(total)
        return found

    async def forget(self) -> None:
        """Delete old minutes, and the whole of aliases that have changed. Raises: RegistryUnavailable."""
        same = sa.and_(_L.c.tenant == _O.c.tenant, _L.c.adapter == _O.c.adapter)
        present = sa.exists().where(same, _L.c.generation == _O.c.generation)
        old = sa.and_(_O.c.minute < utc_now() - _KEPT, _O.c.minute != _WHOLE)
        async with self._database.write() as connection:
            await connection.execute(sa.delete(_O).where(sa.or_(old, ~present)))
