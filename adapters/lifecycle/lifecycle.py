"""All operations on adapters, over registry, store and residency."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from adapters.errors import AdapterError
from adapters.lifecycle.adding import Rules, VersionAdder
from adapters.lifecycle.draining import DrainTasks
from adapters.lifecycle.health import Condition, ProcessHealth
from adapters.lifecycle.load_failures import LoadFailures
from adapters.lifecycle.recovery import Recovery, recover_registry
from adapters.models import Actor, Alias, AliasTarget, EngineAdapter, Version, VersionState
from adapters.registry import Registry
from adapters.registry.state_machine import check_serves
from adapters.residency import Drift, Phase, Residency
from adapters.sources import Progress, Source
from adapters.sources.threads import in_thread
from adapters.store.store import Store


class Lifecycle:
    """The one owner of a data directory's adapters; call `recover` before anything else.

    `observe_swap` is called with the seconds of each change of an alias: promotion, split or rollback.
    """

    def __init__(
        self,
        registry: Registry,
        store: Store,
        residency: Residency,
        rules: Rules,
        *,
        observe_swap: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._registry = registry
        self._store = store
        self._residency = residency
        self._adder = VersionAdder(registry, store, rules)
        self.health = ProcessHealth()
        self._observe_swap = observe_swap
        self._load_failures = LoadFailures(registry)
        self._drain_tasks = DrainTasks(registry, residency)

    async def recover(self, *, deep: bool = False) -> Recovery:
        """After a start: finish or fail unfinished versions and clean the store. `deep` re-hashes all artifacts."""
        return await recover_registry(self._registry, self._store, deep=deep)

    async def restore_pins(self) -> tuple[AdapterError, ...]:
        """Load the pinned versions once the engine runs; returns the errors."""
        errors = []
        for version in await self._registry.versions.list({VersionState.READY}):
            if version.pinned:
                try:
                    await self._residency.pin(self.engine_adapter(version))
                except AdapterError as error:
                    errors.append(error)
        return tuple(errors)

    async def register(
        self,
        tenant: str,
        adapter: str,
        source: Source,
        *,
        by: Actor,
        sampling_defaults: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> Version:
        """Add a version: fetch, check and store it. It is ready, but serves nothing until it is promoted.

        If that fails the version stays listed as failed, with the reason. `condition` has the progress.
        Raises: BadName, UnknownTenant, NameTaken; TooManyFetches; SourceRefused, SourceUnavailable,
            ArtifactRefused, StoreFull.
        """
        self.health.check_fetches(tenant)
        version = await self._registry.versions.register(
            tenant, adapter, source.label, by=by, sampling_defaults=sampling_defaults
        )
        with self.health.fetching(version, progress) as note:
            return await self._adder.add(version, source, by=by, progress=note)

    # Serving

    def engine_adapter(self, version: Version) -> EngineAdapter:
        """The version as the engine identifies it."""
        assert version.digest is not None, version
        return EngineAdapter(version.engine_id, version.engine_name, self._store.path(version.digest))

    def state_of(self, version: Version) -> VersionState:
        """The version's state in this process: RESIDENT for a ready version that the engine holds."""
        if version.state is VersionState.READY and self._residency.phase(version.engine_id) is Phase.RESIDENT:
            return VersionState.RESIDENT
        return version.state

    def condition(self, version: Version) -> Condition:
        """What only this process knows of the version."""
        slot = self._residency.view(version.engine_id)
        return self.health.condition(version, slot, damaged=version.digest in self._store.damaged)

    @asynccontextmanager
    async def hold(self, version: Version) -> AsyncIterator[EngineAdapter]:
        """Keep a version loaded until the block ends; see `Residency.hold`.

        Raises: ResidencyBusy, LoadFailed, VersionRetired, StoreDamaged.
        """
        version = await self._load_failures.usable(version)
        adapter = self.engine_adapter(version)
        if self._residency.phase(adapter.engine_id) is None:
            self._store.require(str(version.digest))
        async with AsyncExitStack() as stack:
            async with self._load_failures.recording(version):
                await stack.enter_async_context(self._residency.hold(adapter))
            yield adapter

    async def _probe(self, tenant: str, adapter: str, numbers: Sequence[int]) -> None:
        """Check that each version loads and answers. Raises: IllegalTransition, ProbeFailed; as `hold`."""
        for number in numbers:
            version = check_serves(await self._registry.versions.get(tenant, adapter, number))
            async with self.hold(version) as held:
                await self._residency.probe(held)

    # Aliases

    async def promote(
        self, tenant: str, adapter: str, number: int, *, by: Actor, expected_generation: int | None = None
    ) -> Alias:
        """Give one version all the traffic: load it, probe it, then change the alias in one step.

        Without `expected_generation` the present one is taken, so one of two concurrent promotions fails.
        Raises: UnknownAdapter, UnknownVersion, IllegalTransition; LoadFailed, ProbeFailed, ResidencyBusy:
            nothing has changed; AliasConflict.
        """
        targets = (AliasTarget(number),)
        return await self.split(tenant, adapter, targets, by=by, expected_generation=expected_generation)

    async def split(
        self,
        tenant: str,
        adapter: str,
        targets: Sequence[AliasTarget],
        *,
        by: Actor,
        expected_generation: int | None = None,
        restored: int | None = None,
    ) -> Alias:
        """Distribute the traffic among versions by weight. Raises: as `promote`, and BadValue."""
        began = time.perf_counter()
        if expected_generation is None:
            expected_generation = (await self._registry.aliases.get(tenant, adapter)).generation
        await self._probe(tenant, adapter, [target.number for target in targets])
        alias = await self._registry.aliases.set(
            tenant, adapter, targets, expected_generation=expected_generation, by=by, restored=restored
        )
        await self._dismiss_unaliased(alias)
        self._observe_swap(time.perf_counter() - began)
        return alias

    async def rollback(
        self, tenant: str, adapter: str, *, by: Actor, expected_generation: int | None = None
    ) -> Alias:
        """Go back to the version that had all the traffic before. Raises: NothingToRollBack; as `promote`."""
        if expected_generation is None:
            expected_generation = (await self._registry.aliases.get(tenant, adapter)).generation
        previous = await self._registry.aliases.previous(tenant, adapter)
        return await self.split(
            tenant,
            adapter,
            previous.targets,
            by=by,
            expected_generation=expected_generation,
            restored=previous.generation,
        )

    async def _dismiss_unaliased(self, alias: Alias) -> None:
        """Unload versions that the alias no longer points at, once their requests have ended."""
        serving = {target.number for target in alias.targets}
        for version in (await self._registry.adapters.get(alias.tenant, alias.adapter)).versions:
            if version.number in serving:
                self._residency.undo_dismiss(version.engine_id)
            elif not version.pinned:
                self._residency.dismiss(version.engine_id)

    # Pins and removal

    async def pin(self, tenant: str, adapter: str, number: int, *, by: Actor) -> Version:
        """Load a version and keep it loaded, across restarts. Raises: PinLimit; as `promote`."""
        await self._probe(tenant, adapter, [number])
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

    async def remove(
        self, tenant: str, adapter: str, number: int | None = None, *, by: Actor, wait_s: float = 30.0
    ) -> tuple[Version, ...]:
        """Take a version, or the whole adapter, out of service; requests in flight finish.

        Returns after at most `wait_s`. Versions that still drain then are DRAINING and retire by themselves.
        Raises: UnknownAdapter, UnknownVersion; InUse: the alias still points at it; IllegalTransition.
        """
        if number is None:
            removed = await self._registry.adapters.begin_removal(tenant, adapter, by=by)
        else:
            removed = (await self._registry.versions.begin_removal(tenant, adapter, number, by=by),)
        return await self._drain_tasks.drain(removed, by, wait_s=wait_s)

    async def reconcile(self) -> Drift:
        """Repair the engine's drift, resume interrupted drains and collect garbage; call it regularly.

        Raises: EngineGone.
        """
        await self._drain_tasks.resume()
        needed = await self._registry.versions.digests()
        await in_thread(lambda: self._store.collect_garbage(needed))
        drift = await self._residency.reconcile()
        self.health.note_drift(drift)
        return drift

    async def check_store(self, *, pause_s: float = 0.1) -> tuple[Version, ...]:
        """Hash the stored copy of every ready version, one after the other; returns the damaged versions.

        A damaged copy is not loaded again until its adapter is added again; a loaded version stays loaded.
        """
        ready = await self._registry.versions.list({VersionState.READY})
        for digest in sorted({version.digest for version in ready if version.digest}):
            await in_thread(partial(self._store.check, [digest], deep=True))
            await asyncio.sleep(pause_s)
        return tuple(version for version in ready if version.digest in self._store.damaged)

    async def aclose(self) -> None:
        """Cancel the drains; the next start retires the versions that are left."""
        await self._drain_tasks.aclose()
