"""Random keys that all servers on one registry have in common; the first one makes them."""

from __future__ import annotations

import secrets

import sqlalchemy as sa

from adapters.registry.database import DatabasePart, insert_into
from adapters.registry.schema import replica_tables

_S = replica_tables.secrets
_BYTES = 32

#: Name of the key from which each tenant's prefix-cache salt is derived.
CACHE_SALT = "cache_salt"


class SharedSecrets(DatabasePart):
    """Keys by name. They never leave the servers and are in no log, answer or audit row."""

    async def get(self, name: str) -> bytes:
        """The key of this name, made now if there is none. Raises: RegistryUnavailable."""
        query = sa.select(_S.c.value).where(_S.c.name == name)
        async with self._database.read() as connection:
            found = (await connection.execute(query)).scalar_one_or_none()
        if found is not None:
            return bytes(found)
        made = insert_into(self._database.engine.dialect, _S).values(
            name=name, value=secrets.token_bytes(_BYTES)
        )
        async with self._database.write() as connection:
            await connection.execute(made.on_conflict_do_nothing())  # another server may be quicker
            return bytes((await connection.execute(query)).scalar_one())
