"""Requests that failed lately, on whichever server; without texts, which could repeat what was sent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import sqlalchemy as sa

from adapters.registry.database import Database, utc_now
from adapters.registry.replicas.membership import Membership
from adapters.registry.schema import replica_tables

_F = replica_tables.failures
_KEPT = timedelta(days=1)
#: What the columns for texts of callers take.
_MAX_CHARS = {"request_id": 128, "key_prefix": 32, "path": 128, "model": 256, "code": 64}


class Cause(StrEnum):
    """Whose mistake a failure is."""

    CALLER = "caller"
    """The request was refused: its body, its key, its rate."""
    SERVER = "server"
    """A right request got no whole answer."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One request that failed; its log line has the same id and more fields."""

    at: datetime
    request_id: str
    tenant: str
    key_prefix: str
    path: str
    model: str
    status: int
    code: str
    cause: Cause


class Failures:
    """The failures of all servers."""

    def __init__(self, database: Database, membership: Membership) -> None:
        self._database = database
        self._membership = membership

    async def add(self, failures: Iterable[Failure]) -> None:
        """Write some of this server's. Raises: RegistryUnavailable."""
        rows = [_row(failure) | {"replica": self._membership.own.id} for failure in failures]
        if rows:
            async with self._database.write() as connection:
                await connection.execute(sa.insert(_F), rows)

    async def of_others(self, tenant: str | None, limit: int) -> tuple[Failure, ...]:
        """What other servers wrote, of one tenant or of all, the newest first. Raises: RegistryUnavailable."""
        columns = [column for column in _F.columns if column.name not in ("id", "replica")]
        query = sa.select(*columns).where(_F.c.replica != self._membership.own.id)
        if tenant is not None:
            query = query.where(_F.c.tenant == tenant)
        query = query.order_by(_F.c.id.desc()).limit(limit)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).mappings()
            return tuple(Failure(**{**row, "cause": Cause(row["cause"])}) for row in rows)

    async def trim(self, most: int) -> None:
        """Delete all but the newest of each tenant, and what is older than a day. Raises: RegistryUnavailable."""
        rank = sa.func.row_number().over(partition_by=_F.c.tenant, order_by=_F.c.id.desc()).label("rank")
        ranked = sa.select(_F.c.id, rank).subquery()
        old = sa.or_(
            _F.c.at < utc_now() - _KEPT, _F.c.id.in_(sa.select(ranked.c.id).where(ranked.c.rank > most))
        )
        async with self._database.write() as connection:
            await connection.execute(sa.delete(_F).where(old))


def _row(failure: Failure) -> dict[str, object]:
    """The row; what callers choose may have characters that PostgreSQL does not take, and any length."""
    row = asdict(failure)
    for name, most in _MAX_CHARS.items():
        row[name] = str(row[name]).replace("\0", "").encode("utf-8", "replace").decode()[:most]
    return row
