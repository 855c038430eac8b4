"""Draining: a version takes no new requests, those in flight finish, and then it is unloaded for good.

Each server drains it by itself, and the version is retired when all that live have.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from adapters.errors import AdapterError
from adapters.lifecycle.stored_artifacts import collect_garbage
from adapters.models import SYSTEM, Actor, Version, VersionState
from adapters.registry import Registry
from adapters.residency import Residency
from adapters.store.store import Store

logger = logging.getLogger("loragate")

#: How often it is looked whether the other servers have drained a version.
_POLL_INTERVAL_S = 0.5


class DrainTasks:
    """The running drain tasks, one per engine id; each frees the disk space of its version at its end."""

    def __init__(self, registry: Registry, residency: Residency, store: Store) -> None:
        self._registry = registry
        self._store = store
        self._residency = residency
        self._tasks: dict[int, asyncio.Task[Version]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    async def drain(self, versions: Sequence[Version], by: Actor, *, wait_s: float) -> tuple[Version, ...]:
        """Drain the DRAINING ones of these versions; what still drains after `wait_s` goes on by itself."""
        tasks = {v.engine_id: self._start(v, by) for v in versions if v.state is VersionState.DRAINING}
        if tasks:
            await asyncio.wait(tasks.values(), timeout=wait_s)
        ended = {engine_id: task.result() for engine_id, task in tasks.items() if task.done()}
        return tuple(ended.get(version.engine_id, version) for version in versions)

    async def resume(self) -> None:
        """Drain all DRAINING versions whose task does not run."""
        for version in await self._registry.versions.list({VersionState.DRAINING}):
            self._start(version, SYSTEM)

    def _start(self, version: Version, by: Actor) -> asyncio.Task[Version]:
        task = self._tasks.get(version.engine_id)
        if task is None or task.done():
            task = asyncio.create_task(self._drain(version, by), name=f"drain {version.engine_name}")
            self._tasks[version.engine_id] = task
        return task

    async def _drain(self, version: Version, by: Actor) -> Version:
        await self._residency.retire(version.engine_id)
        while True:
            retired = await self._registry.drains.acknowledge(version, by=by)
            if retired.state is not VersionState.DRAINING:
                break
            await asyncio.sleep(_POLL_INTERVAL_S)  # other servers still have requests that use it
        del self._tasks[version.engine_id]
        try:
            await collect_garbage(self._registry, self._store)
        except (AdapterError, OSError):
            logger.exception("The space of %s could not be freed; it is tried again.", version.engine_name)
        return retired

    async def aclose(self) -> None:
        """Cancel the tasks; the next start retires the versions that are left."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
