"""Brings this server to what the registry wants, whichever server was asked for it.

Promotions, pins and removals are written to the registry; every server applies what has changed there: it drains
versions that were removed, loads those that were pinned, and unloads those that lost their traffic.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from adapters.errors import AdapterError
from adapters.lifecycle.blends.request_blends import FIRST_ENGINE_ID
from adapters.lifecycle.draining import DrainTasks
from adapters.models import EngineAdapter, Version, VersionState
from adapters.registry import Registry
from adapters.residency import Residency

logger = logging.getLogger("loragate")


class Convergence:
    """Applies the registry's state to the adapters that this server has loaded."""

    def __init__(
        self,
        registry: Registry,
        residency: Residency,
        drain_tasks: DrainTasks,
        engine_adapter: Callable[[Version], EngineAdapter],
    ) -> None:
        self._registry = registry
        self._residency = residency
        self._drain_tasks = drain_tasks
        self._engine_adapter = engine_adapter
        self._aliased: set[int] = set()  # engine ids that an alias pointed at when it was looked last
        self._pinning: dict[int, asyncio.Task[None]] = {}

    async def apply(self) -> None:
        """Compare once, and begin what is missing; loads and drains go on. Raises: RegistryUnavailable."""
        await self._drain_tasks.resume()
        await self._unload()
        await self._pin()

    async def restore_pins(self) -> tuple[AdapterError, ...]:
        """Load the pinned versions, one after the other; returns the errors."""
        errors = []
        for version in await self._registry.versions.list({VersionState.READY}, pinned=True):
            try:
                await self._residency.pin(self._engine_adapter(version))
            except AdapterError as error:
                errors.append(error)
        return tuple(errors)

    async def _unload(self) -> None:
        """Unload, when it is idle, what has lost its traffic or is no version any more."""
        loaded = {slot.engine_id for slot in self._residency.snapshot().slots}
        versions = await self._registry.versions.loaded(loaded)
        aliased = {version.engine_id for version, is_aliased in versions if is_aliased}
        known = {version.engine_id for version, _ in versions}
        known |= {engine_id for engine_id in loaded if engine_id >= FIRST_ENGINE_ID}  # blends of requests
        pinned = {version.engine_id for version, _ in versions if version.pinned}
        for engine_id in aliased | pinned:
            self._residency.undo_dismiss(engine_id)
        # A version that is called by its number alone has no traffic to lose: it stays until its slot is needed.
        for engine_id in (loaded - known) | ((self._aliased & loaded) - aliased - pinned):
            self._residency.dismiss(engine_id)
        self._aliased = aliased

    async def _pin(self) -> None:
        ready = await self._registry.versions.list({VersionState.READY}, pinned=True)
        wanted = {version.engine_id: version for version in ready}
        for engine_id in self._residency.pinned - wanted.keys():
            self._residency.unpin(engine_id)
        for engine_id in wanted.keys() - self._residency.pinned - self._pinning.keys():
            task = asyncio.create_task(self._load(wanted[engine_id]), name=f"pin {engine_id}")
            self._pinning[engine_id] = task

    async def _load(self, version: Version) -> None:
        try:
            await self._residency.pin(self._engine_adapter(version))
        except AdapterError as error:
            logger.error("A version that was pinned on another server could not be loaded here: %s", error)
        finally:
            del self._pinning[version.engine_id]

    async def aclose(self) -> None:
        """Cancel the loads."""
        tasks = list(self._pinning.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
