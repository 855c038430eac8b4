"""Draining: a version takes no new requests, those in flight finish, and then it is unloaded for good."""

from __future__ import annotations

import asyncio

from adapters.models import Actor, Version, VersionState
from adapters.registry import Registry
from adapters.residency import Residency


class DrainTasks:
    """The running drain tasks, one per engine id."""

    def __init__(self, registry: Registry, residency: Residency) -> None:
        self._registry = registry
        self._residency = residency
        self._tasks: dict[int, asyncio.Task[Version]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, version: Version, by: Actor) -> asyncio.Task[Version]:
        """Drain a DRAINING version; returns the running task if there is one."""
        task = self._tasks.get(version.engine_id)
        if task is None or task.done():
            task = asyncio.create_task(self._drain(version, by), name=f"drain {version.engine_name}")
            self._tasks[version.engine_id] = task
        return task

    async def _drain(self, version: Version, by: Actor) -> Version:
        await self._residency.retire(version.engine_id)
        retired = await self._registry.versions.transition(version, VersionState.RETIRED, by=by)
        del self._tasks[version.engine_id]
        return retired

    async def aclose(self) -> None:
        """Cancel the tasks; the next start retires the versions that are left."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
