"""The registry: tenants, keys, adapters, versions, aliases, audit and usage in one database.

engine = connect("sqlite:////var/lib/loragate/registry.db")
await check_schema(engine)
registry = Registry(engine, reserved_names={"Qwen2.5-3B"})
view = await registry.adapters.resolve("acme", "acme-support")
"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.registry.adapters import Adapters
from adapters.registry.aliases import Aliases
from adapters.registry.audit import Audit
from adapters.registry.database import Database, connect
from adapters.registry.feedback import FeedbackStore
from adapters.registry.keys import Keys
from adapters.registry.schema.migration import check_schema, migrate
from adapters.registry.tenants import Tenants
from adapters.registry.usage import UsageLedger
from adapters.registry.versions import Versions

__all__ = ["Registry", "check_schema", "connect", "migrate"]


class Registry:
    """All tables over one database engine, which the caller owns and disposes of."""

    def __init__(self, engine: AsyncEngine, *, reserved_names: Collection[str] = ()) -> None:
        self._database = Database(engine)
        self.tenants = Tenants(self._database)
        self.keys = Keys(self._database)
        self.adapters = Adapters(self._database)
        self.versions = Versions(self._database, reserved_names)
        self.aliases = Aliases(self._database)
        self.audit = Audit(self._database)
        self.usage = UsageLedger(self._database)
        self.feedback = FeedbackStore(self._database)

    def changes(self) -> int:
        """Number of changes made by this object; when it grows, data read before may be stale."""
        return self._database.changes

    async def ping(self) -> None:
        """Return when the database answers. Raises: RegistryUnavailable."""
        async with self._database.read() as connection:
            await connection.execute(sa.select(1))
