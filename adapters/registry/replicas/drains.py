"""Which servers have drained a version: it is retired when all that live have."""

from __future__ import annotations

import sqlalchemy as sa

from adapters.errors import IllegalTransition
from adapters.models import Actor, Version, VersionState
from adapters.registry.database import Database, insert_into
from adapters.registry.replicas.membership import Membership
from adapters.registry.schema import replica_tables
from adapters.registry.versions import Versions

_D = replica_tables.drained


class Drains:
    """Acknowledgements of drained versions."""

    def __init__(self, database: Database, membership: Membership, versions: Versions) -> None:
        self._database = database
        self._membership = membership
        self._versions = versions

    async def acknowledge(self, version: Version, *, by: Actor) -> Version:
        """Note that no request on this server uses the version any more, and retire it if this holds everywhere.

        Returns:
            The version as it is now: DRAINING as long as another server has not acknowledged.

        Raises: UnknownVersion, RegistryUnavailable.
        """
        now = await self._versions.get(version.tenant, version.adapter, version.number)
        if now.state is not VersionState.DRAINING:
            return now
        if self._membership.is_shared and not await self._have_all_drained(version):
            return now
        try:
            retired = await self._versions.transition(version, VersionState.RETIRED, by=by)
        except IllegalTransition:  # another server was quicker
            return await self._versions.get(version.tenant, version.adapter, version.number)
        if self._membership.is_shared:
            async with self._database.write() as connection:
                await connection.execute(sa.delete(_D).where(_D.c.engine_id == version.engine_id))
        return retired

    async def _have_all_drained(self, version: Version) -> bool:
        row = {"engine_id": version.engine_id, "replica": self._membership.own.id}
        noted = insert_into(self._database.engine.dialect, _D).values(**row).on_conflict_do_nothing()
        query = sa.select(_D.c.replica).where(_D.c.engine_id == version.engine_id)
        async with self._database.write() as connection:
            await connection.execute(noted)
            have = set((await connection.execute(query)).scalars())
        return {replica.id for replica in await self._membership.live()} <= have
