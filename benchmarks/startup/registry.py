"""A registry with many adapters, as adding them one by one would leave it, for starts over it."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.artifact import WEIGHTS
from adapters.models import Version
from adapters.registry import Registry, connect
from adapters.registry.schema import tables
from adapters.store.store import Store
from server.config.settings import Settings


async def register_copies(settings: Settings, count: int) -> None:
    """Register so many copies of the demo's first adapter in the data folder of a server that does not run."""
    engine = connect(settings.registry_url)
    try:
        model = await Registry(engine).versions.get("acme", "support", 1)
        await copy_version(engine, Store(settings.home / "adapters"), model, count)
    finally:
        await engine.dispose()


async def copy_version(engine: AsyncEngine, store: Store, model: Version, count: int) -> None:
    """Adapters `a0`, `a1`, … of the same tenant, each with an artifact of its own, served under their names."""
    assert model.digest is not None, "a version that is served has an artifact"
    now = datetime.now(UTC)
    same = {column.name: getattr(model, column.name) for column in tables.versions.columns}
    adapters, versions, aliases = [], [], []
    for number in range(count):
        name = f"a{number}"
        key = {"tenant": model.tenant, "adapter": name}
        public_name = f"{model.tenant}-{name}"
        adapters.append(
            {
                "tenant": model.tenant,
                "name": name,
                "public_name": public_name,
                "next_number": 2,
                "created_at": now,
            }
        )
        digest = _copy_artifact(store, model.digest, number)
        versions.append(same | key | {"number": 1, "engine_id": 10_000 + number, "digest": digest})
        aliases.append(key | {"generation": 1, "targets": [[1, 1.0]], "updated_at": now})
    async with engine.begin() as connection:
        for table, rows in (
            (tables.adapters, adapters),
            (tables.versions, versions),
            (tables.aliases, aliases),
        ):
            await connection.execute(sa.insert(table), rows)


def _copy_artifact(store: Store, digest: str, number: int) -> str:
    """The same weights under a configuration that differs in a field which nobody reads; returns its digest."""
    with store.staging() as staging:
        shutil.copyfile(store.path(digest) / WEIGHTS, staging.files / WEIGHTS)
        artifact = store.seal(staging, {"copy": number})
        store.publish(staging, artifact)
    return artifact.digest
