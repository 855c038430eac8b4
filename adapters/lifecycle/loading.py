"""Versions in the engine: a request holds one, one is probed before it gets traffic, and a pinned one stays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from adapters.depot.local_copies import LocalCopies
from adapters.lifecycle.load_failures import LoadFailures
from adapters.models import Actor, EngineAdapter, Version
from adapters.registry import Registry
from adapters.registry.state_machine import check_serves
from adapters.residency import Residency


class Loading:
    """Loads versions from the store."""

    def __init__(self, registry: Registry, copies: LocalCopies, residency: Residency) -> None:
        self._registry = registry
        self._copies = copies
        self._residency = residency
        self._load_failures = LoadFailures(registry)

    def engine_adapter(self, version: Version) -> EngineAdapter:
        """The version as the engine identifies it."""
        assert version.digest is not None, version
        return EngineAdapter(version.engine_id, version.engine_name, self._copies.store.path(version.digest))

    @asynccontextmanager
    async def hold(self, version: Version) -> AsyncIterator[EngineAdapter]:
        """Keep a version loaded until the block ends; see `Residency.hold`.

        Raises: ResidencyBusy, LoadFailed, VersionRetired, StoreDamaged, DepotUnavailable.
        """
        version = await self._load_failures.usable(version)
        adapter = self.engine_adapter(version)
        async with AsyncExitStack() as stack:
            if self._residency.phase(adapter.engine_id) is None:
                await stack.enter_async_context(self._copies.needed(str(version.digest)))
            async with self._load_failures.recording(version):
                await stack.enter_async_context(self._residency.hold(adapter))
            yield adapter

    async def probe(self, tenant: str, adapter: str, numbers: Sequence[int]) -> None:
        """Check that each version loads and answers. Raises: IllegalTransition, ProbeFailed; as `hold`."""
        for number in numbers:
            version = check_serves(await self._registry.versions.get(tenant, adapter, number))
            async with self.hold(version) as held:
                await self._residency.probe(held)

    async def pin(self, tenant: str, adapter: str, number: int, *, by: Actor) -> Version:
        """Load a version and keep it loaded, across restarts. Raises: PinLimit; as `promote`."""
        await self.probe(tenant, adapter, [number])
        version = await self._registry.versions.get(tenant, adapter, number)
        await self._residency.pin(self.engine_adapter(version))
        try:
            return await self._registry.versions.set_pinned(version, True, by=by)
        except BaseException:  # a cancellation between the two steps must not leave a pin behind
            self._residency.unpin(version.engine_id)
            raise

    async def unpin(self, tenant: str, adapter: str, number: int, *, by: Actor) -> Version:
        """Let a version be unloaded again when its slot is needed. Raises: UnknownVersion."""
        version = await self._registry.versions.get(tenant, adapter, number)
        version = await self._registry.versions.set_pinned(version, False, by=by)
        self._residency.unpin(version.engine_id)
        return version
