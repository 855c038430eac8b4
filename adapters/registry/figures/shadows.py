"""Shadow traffic: which version gets copies of an adapter's requests, and sums of what was compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from adapters.errors import UnknownAdapter
from adapters.models import Actor
from adapters.registry.database import DatabasePart, insert_into
from adapters.registry.schema import evaluation_tables, tables
from adapters.registry.schema.rows import lock_adapter, read_version
from adapters.registry.state_machine import check_serves

_A, _S = tables.adapters, evaluation_tables.shadow_sums
#: The sums of one metric: comparisons; of the served answers, of the shadow's, and of their difference.
SUMS = ("count", "served", "served_squares", "shadow", "shadow_squares", "difference_squares")


@dataclass(frozen=True, slots=True)
class Shadow:
    """A version that gets copies of requests. `caller`: the tenant under whose name they count; "": operator."""

    version: int
    share: float
    caller: str

    def as_dict(self) -> dict[str, Any]:
        """For the database."""
        return {"version": self.version, "share": self.share, "caller": self.caller}


def shadow_of(plain: Mapping[str, Any] | None) -> Shadow | None:
    """The inverse of `Shadow.as_dict`."""
    return None if plain is None else Shadow(plain["version"], plain["share"], plain["caller"])


class Shadows(DatabasePart):
    """The registry's shadow traffic."""

    async def set(self, tenant: str, adapter: str, shadow: Shadow | None, *, by: Actor) -> None:
        """Begin or end it; what was compared of a version before is forgotten when it begins.

        Raises: UnknownAdapter, UnknownVersion; IllegalTransition: the version is not ready.
        """
        plain = None if shadow is None else shadow.as_dict()
        name = f"{tenant}-{adapter}"
        async with self._database.change(by, "adapter.shadow", name, plain or {"off": True}) as connection:
            locked = await lock_adapter(connection, tenant, adapter)
            if locked.removed_at is not None:
                raise UnknownAdapter(locked.public_name)
            if shadow is not None:
                check_serves(await read_version(connection, tenant, adapter, shadow.version))
                mine = sa.and_(_S.c.tenant == tenant, _S.c.adapter == adapter)
                await connection.execute(sa.delete(_S).where(mine, _S.c.version == shadow.version))
            row = sa.and_(_A.c.tenant == tenant, _A.c.name == adapter)
            await connection.execute(sa.update(_A).where(row).values(shadow=plain))

    async def add(
        self,
        tenant: str,
        adapter: str,
        version: int,
        against: int,
        metrics: Mapping[str, Sequence[float]],
    ) -> None:
        """Add sums (`SUMS`) of comparisons of a version with the one that served the requests."""
        if not metrics:
            return
        key = {"tenant": tenant, "adapter": adapter, "version": version, "against": against}
        rows = [
            {**key, "metric": name, **dict(zip(SUMS, added, strict=True))} for name, added in metrics.items()
        ]
        insert = insert_into(self._database.engine.dialect, _S).values(rows)
        grown = {name: _S.c[name] + insert.excluded[name] for name in SUMS}
        async with self._database.write() as connection:
            await connection.execute(
                insert.on_conflict_do_update(index_elements=list(_S.primary_key.columns), set_=grown)
            )

    async def sums(self, tenant: str, adapter: str, version: int) -> dict[int, dict[str, tuple[float, ...]]]:
        """The sums of a version, by the version that it was compared with and metric."""
        query = sa.select(_S).where(
            _S.c.tenant == tenant, _S.c.adapter == adapter, _S.c.version == version
        ).order_by(_S.c.against, _S.c.metric)  # fmt: skip
        found: dict[int, dict[str, tuple[float, ...]]] = {}
        async with self._database.read() as connection:
            for row in (await connection.execute(query)).mappings():
                found.setdefault(row["against"], {})[row["metric"]] = tuple(row[name] for name in SUMS)
        return found
