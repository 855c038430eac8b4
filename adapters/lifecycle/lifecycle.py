"""All operations on adapters, over registry, store and residency."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from adapters.depot.depot import Depot
from adapters.depot.local_copies import LocalCopies
from adapters.errors import AdapterError
from adapters.lifecycle.adding import Rules, VersionAdder
from adapters.lifecycle.blends.blending import Blending
from adapters.lifecycle.blends.request_blends import BlendLimits, RequestBlends
from adapters.lifecycle.convergence import Convergence
from adapters.lifecycle.draining import DrainTasks
from adapters.lifecycle.drift_log import DriftLog
from adapters.lifecycle.fetch_progress import RunningFetches
from adapters.lifecycle.loading import Loading
from adapters.lifecycle.proving import Proving
from adapters.lifecycle.recovery import Recovery, recover_registry, take_over
from adapters.lifecycle.stored_artifacts import collect_depot_garbage, collect_garbage, find_damage
from adapters.lifecycle.version_condition import VersionCondition
from adapters.models import Actor, Alias, AliasTarget, Version, VersionState
from adapters.promotion.checker import PromotionChecker
from adapters.registry import Registry
from adapters.registry.replicas.membership import DEPOT_GARBAGE
from adapters.residency import Drift, Phase, Residency
from adapters.sources import BlendSource, Progress, Source
from adapters.store.store import Store


class Lifecycle:
    """The adapters of one server; call `recover` before anything else.

    `observe_swap` is called with the seconds of each change of an alias: promotion, split or rollback; `prove_on` is
    the number of servers that prove a version before (`Proving`).
    """

    def __init__(
        self,
        registry: Registry,
        store: Store,
        residency: Residency,
        rules: Rules,
        *,
        depot: Depot | None = None,
        store_max_bytes: int | None = None,
        prove_on: int | None = 1,
        blend_limits: BlendLimits = BlendLimits(),
        observe_swap: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._registry, self._store, self._residency = registry, store, residency
        self._copies = LocalCopies(store, depot, store_max_bytes, self._digests)
        self._checker = PromotionChecker(registry)
        self._adder = VersionAdder(registry, self._copies, rules)
        self.blending = Blending(registry, self._copies, rules, self.register)
        self.fetches, self.drifts = RunningFetches(), DriftLog()
        self._observe_swap = observe_swap
        self.loading = Loading(registry, self._copies, residency)
        self.proving = Proving(registry, self.loading, prove_on)
        self.request_blends = RequestBlends(self._copies, residency, rules, blend_limits)
        self._drain_tasks = DrainTasks(registry, residency, store)
        self._convergence = Convergence(registry, residency, self._drain_tasks, self.loading.engine_adapter)

    async def recover(self, *, deep: bool = False) -> Recovery:
        """After a start: finish or fail unfinished versions and clean the store. `deep` re-hashes all artifacts."""
        return await recover_registry(self._registry, self._copies, deep=deep)

    async def take_over(self) -> tuple[Version, ...]:
        """Finish or fail what dead servers were adding; returns the versions. Raises: RegistryUnavailable."""
        finished, failed = await take_over(self._registry, self._copies)
        return finished + failed

    async def converge(self) -> None:
        """Apply what has changed in the registry, on whichever server. Raises: RegistryUnavailable."""
        await self._convergence.apply()

    async def restore_pins(self) -> tuple[AdapterError, ...]:
        """Load the pinned versions once the engine runs; returns the errors."""
        return await self._convergence.restore_pins()

    async def register(
        self,
        tenant: str,
        adapter: str,
        source: Source | BlendSource,
        *,
        by: Actor,
        sampling_defaults: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> Version:
        """Add a version: fetch, check and store it. It is ready, but serves nothing until it is promoted.

        If that fails the version stays listed as failed, with the reason. `condition` has the progress.
        Raises: BadName, UnknownTenant, NameTaken; TooManyFetches; as `VersionAdder.add`.
        """
        self.fetches.check_limit(tenant)
        version = await self._registry.versions.register(
            tenant,
            adapter,
            source.label,
            by=by,
            sampling_defaults=sampling_defaults,
            owner=self._registry.membership.own.id,
            recipe=source.recipe if isinstance(source, BlendSource) else None,
        )
        with self.fetches.track(version, progress) as note:
            return await self._adder.add(version, source, by=by, progress=note)

    def _digests(self) -> frozenset[str]:
        """The first characters of the digests that the engine may read again."""
        return frozenset(s.engine_name.rpartition("#")[2] for s in self._residency.snapshot().slots)

    def state_of(self, version: Version) -> VersionState:
        """The version's state in this process: RESIDENT for a ready version that the engine holds."""
        if version.state is VersionState.READY and self._residency.phase(version.engine_id) is Phase.RESIDENT:
            return VersionState.RESIDENT
        return version.state

    def condition(self, version: Version) -> VersionCondition:
        """What only this process knows of the version."""
        fetching, drifted = self.fetches.progress_of(version), self.drifts.last_of(version.engine_id)
        damaged = version.digest in self._store.damaged
        return VersionCondition(self._residency.view(version.engine_id), fetching, drifted, damaged)

    # Aliases

    async def promote(
        self,
        tenant: str,
        adapter: str,
        number: int,
        *,
        by: Actor,
        expected_generation: int | None = None,
        condition: str | None = None,
    ) -> Alias:
        """Give one version all the traffic: load it, probe it, then change the alias in one step.

        Without `expected_generation` the present one is taken, so one of two concurrent promotions fails.
        Raises: UnknownAdapter, UnknownVersion, IllegalTransition; BadCondition, ConditionNotMet: the figures of its
            evaluations do not meet `condition` or the adapter's own; LoadFailed, ProbeFailed, ProofFailed,
            ResidencyBusy: nothing has changed; AliasConflict.
        """
        targets = (AliasTarget(number),)
        return await self.split(
            tenant, adapter, targets, by=by, expected_generation=expected_generation, condition=condition
        )

    async def split(
        self,
        tenant: str,
        adapter: str,
        targets: Sequence[AliasTarget],
        *,
        by: Actor,
        expected_generation: int | None = None,
        restored: int | None = None,
        condition: str | None = None,
        reason: str = "",
    ) -> Alias:
        """Distribute the traffic by weight; `reason`: of a canary's rollback. Raises: as `promote`, and BadValue."""
        began = time.perf_counter()
        view = await self._registry.adapters.get(tenant, adapter)
        if expected_generation is None:
            expected_generation = view.alias.generation
        met = None if restored else await self._checker.check(view, targets, condition, by=by)
        proven_on = await self.proving.prove(tenant, adapter, targets, elsewhere=restored is None)
        how: Any = {"by": by, "restored": restored, "met": met, "reason": reason}
        alias = await self._registry.aliases.set(
            tenant, adapter, targets, expected_generation=expected_generation, **how
        )
        await self._dismiss_unaliased(alias)
        self._observe_swap(time.perf_counter() - began)
        return replace(alias, proven_on=proven_on)

    async def rollback(
        self, tenant: str, adapter: str, *, by: Actor, expected_generation: int | None = None
    ) -> Alias:
        """Go back to the version that had all traffic, proven here only. Raises: NothingToRollBack; as `promote`."""
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
        """Repair the engine's drift, resume drains and collect garbage; call it regularly. Raises: EngineGone."""
        await self._drain_tasks.resume()
        self.request_blends.drop_idle()
        await collect_garbage(self._registry, self._store)
        drift = await self._residency.reconcile()
        self.drifts.note(drift)
        return drift

    async def collect_depot_garbage(self) -> tuple[str, ...]:
        """Remove from the depot what no version needs, unless another server does. Raises: RegistryUnavailable,
        DepotUnavailable. Returns: the digests."""
        if self._copies.depot is None:
            return ()
        async with self._registry.membership.leading(DEPOT_GARBAGE) as leads:
            return await collect_depot_garbage(self._registry, self._copies.depot) if leads else ()

    async def check_store(self, *, pause_s: float = 0.1) -> tuple[Version, ...]:
        """Hash the stored copy of every ready version, one after the other; returns the damaged versions.

        A damaged copy is not loaded again until its adapter is added again; a loaded version stays loaded.
        """
        return await find_damage(self._registry, self._copies, pause_s=pause_s)

    async def aclose(self) -> None:
        """Cancel drains and loads; another server, or the next start, retires the versions that are left."""
        parts = (self.proving, self.request_blends, self._copies, self._convergence, self._drain_tasks)
        for part in parts:
            await part.aclose()
