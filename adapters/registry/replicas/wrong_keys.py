"""Wrong keys by client address, counted over all servers; a restart forgets none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from adapters.registry.database import Database, insert_into
from adapters.registry.replicas.membership import Membership
from adapters.registry.schema import replica_tables

_W = replica_tables.wrong_keys

#: One wrong key of an address is forgiven after each such interval.
FORGIVEN_AFTER_S = 3.0
#: More wrong keys of an address do not count: an hour later all are forgiven.
MAX_FAILURES = 1200.0
#: A server that has reported an address within this time still gets wrong keys from it.
_ACTIVE_S = 15.0


@dataclass(frozen=True, slots=True)
class AddressFailures:
    """The wrong keys of one address at this moment."""

    failures: float
    servers: int
    """How many servers got some lately."""


class WrongKeys:
    """The counts of all servers. A count that may be lost is added again: at worst it counts twice."""

    def __init__(self, database: Database, membership: Membership) -> None:
        self._database = database
        self._membership = membership

    async def report(self, counts: Mapping[str, int]) -> dict[str, AddressFailures]:
        """Add this server's new wrong keys by address; returns those of all servers for the same addresses.

        Raises: RegistryUnavailable.
        """
        if not counts:
            return {}
        dialect = self._database.engine.dialect
        now = _now(dialect)
        rows = [
            {
                "address": address,
                "failures": float(min(count, MAX_FAILURES)),
                "failed_at_s": now,
                "reported_by": self._reported(dialect, now),
            }
            for address, count in sorted(
                counts.items()
            )  # in one order, so that two servers never block each other
        ]
        insert = insert_into(dialect, _W).values(rows)
        merged = _W.c.reported_by.op("||") if _is_postgres(dialect) else _patch
        changed = {
            "failures": _bounded(_left(now) + insert.excluded.failures),
            "failed_at_s": now,
            "reported_by": merged(insert.excluded.reported_by),
        }
        added = insert.on_conflict_do_update(index_elements=[_W.c.address], set_=changed)
        asked = added.returning(_W.c.address, _W.c.failures, _W.c.reported_by, now.label("now_s"))
        async with self._database.write() as connection:
            found = (await connection.execute(asked)).mappings().all()
        return {row["address"]: AddressFailures(row["failures"], _active(row)) for row in found}

    async def recent(self, limit: int) -> dict[str, AddressFailures]:
        """What is not forgiven yet, the newest last. Raises: RegistryUnavailable."""
        now = _now(self._database.engine.dialect)
        left = _left(now).label("left")
        query = sa.select(_W.c.address, left, _W.c.reported_by, now.label("now_s")).where(left > 0)
        query = query.order_by(_W.c.failed_at_s.desc()).limit(limit)
        async with self._database.read() as connection:
            found = (await connection.execute(query)).mappings().all()
        return {row["address"]: AddressFailures(row["left"], _active(row)) for row in reversed(found)}

    async def forget(self) -> None:
        """Delete what is forgiven. Raises: RegistryUnavailable."""
        forgiven = sa.delete(_W).where(_left(_now(self._database.engine.dialect)) <= 0)
        async with self._database.write() as connection:
            await connection.execute(forgiven)

    def _reported(self, dialect: sa.Dialect, now: sa.ColumnElement[float]) -> sa.ColumnElement[Any]:
        build = sa.func.jsonb_build_object if _is_postgres(dialect) else sa.func.json_object
        return build(self._membership.own.id, now)


def _is_postgres(dialect: sa.Dialect) -> bool:
    return dialect.name == "postgresql"


def _now(dialect: sa.Dialect) -> sa.ColumnElement[float]:
    """Seconds by the database's clock."""
    if _is_postgres(dialect):
        return sa.cast(sa.extract("epoch", sa.func.now()), sa.Float)
    return sa.literal_column("((julianday('now') - 2440587.5) * 86400.0)", sa.Float)


def _left(now: sa.ColumnElement[float]) -> sa.ColumnElement[float]:
    """A row's failures that are not forgiven by now."""
    return _bounded(_W.c.failures - (now - _W.c.failed_at_s) / FORGIVEN_AFTER_S)


def _bounded(value: sa.ColumnElement[float]) -> sa.ColumnElement[float]:
    return sa.case((value < 0, 0.0), (value > MAX_FAILURES, MAX_FAILURES), else_=value)


def _patch(added: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.func.json_patch(_W.c.reported_by, added)


def _active(row: sa.RowMapping) -> int:
    reports: Iterable[float] = row["reported_by"].values()
    return max(1, sum(1 for reported_at in reports if reported_at > row["now_s"] - _ACTIVE_S))
