"""Writes many adapters to a registry at once, as if they had been added one by one."""

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
    """Register `count` copies of the demo's first adapter in the data folder of a server that is not running."""
    engine = connect(settings.registry_url)
    try:
        source = await Registry(engine).versions.get("acme", "support", 1)
        await copy_version(engine, Store(settings.home / "adapters"), source, count)
    finally:
        await engine.dispose()


async def copy_version(engine: AsyncEngine, store: Store, source: Version, count: int) -> None:
    """Copy `source` to adapters `a0`, `a1`, … of its tenant, each with an artifact and an alias of its own."""
    assert source.digest is not None, "a served version has an artifact"
    now = datetime.now(UTC)
    same = {column.name: getattr(source, column.name) for column in tables.versions.columns}
    adapters, versions, aliases = [], [], []
    for number in range(count):
        name = f"a{number}"
        key = {"tenant": source.tenant, "adapter": name}
        names = {"tenant": source.tenant, "name": name, "public_name": f"{source.tenant}-{name}"}
        adapters.append(names | {"next_number": 2, "created_at": now})
        digest = _copy_artifact(store, source.digest, number)
        versions.append(same | key | {"number": 1, "engine_id": 10_000 + number, "digest": digest})
        aliases.append(key | {"generation": 1, "targets": [[1, 1.0]], "updated_at": now})
    async with engine.begin() as connection:
        await connection.execute(sa.insert(tables.adapters), adapters)
        await connection.execute(sa.insert(tables.versions), versions)
        await connection.execute(sa.insert(tables.aliases), aliases)


def _copy_artifact(store: Store, digest: str, number: int) -> str:
    """Store the same weights with a configuration that differs in an unused field; returns the new digest."""
    with store.staging() as staging:
        shutil.copyfile(store.path(digest) / WEIGHTS, staging.files / WEIGHTS)
        artifact = store.seal(staging, {"copy": number})
        store.publish(staging, artifact)
    return artifact.digest
