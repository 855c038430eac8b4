"""After a restart: what was begun is finished or failed, and nothing half-made remains."""

from __future__ import annotations

from dataclasses import dataclass

from adapters.errors import AdapterError
from adapters.models import SYSTEM, Version, VersionState
from adapters.registry import Registry
from adapters.registry.state_machine import UNFINISHED
from adapters.residency import Residency
from adapters.sources.threads import in_thread
from adapters.store.store import Store

_STOPPED = "the server stopped while the adapter was being added; add it again"


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was found and done at the start."""

    finished: tuple[Version, ...]  # were in the store already, now ready
    failed: tuple[Version, ...]  # were not
    retired: tuple[Version, ...]  # were draining
    damaged: tuple[Version, ...]  # ready, but their artifact is missing or damaged: add them again
    staging_removed: int
    garbage: tuple[str, ...]


async def recover_registry(registry: Registry, store: Store, *, deep: bool) -> Recovery:
    """Bring registry and store to agree. Nothing may be added or removed while it runs.

    A ready version whose artifact is damaged stays ready: adding the same weights again mends it.
    """
    removed = await in_thread(store.clean_staging)
    finished, failed = [], []
    for version in await registry.versions.list(UNFINISHED):
        if await _is_stored(store, version):
            finished.append(await registry.versions.transition(version, VersionState.READY, by=SYSTEM))
        else:
            moved = await registry.versions.transition(
                version, VersionState.FAILED, by=SYSTEM, error=_STOPPED
            )
            failed.append(moved)
    retired = [
        await registry.versions.transition(version, VersionState.RETIRED, by=SYSTEM)
        for version in await registry.versions.list({VersionState.DRAINING})
    ]
    ready = await registry.versions.list({VersionState.READY})
    digests = {version.digest for version in ready if version.digest}
    broken = await in_thread(lambda: store.check(digests, deep=deep))
    garbage = await in_thread(lambda: store.collect_garbage(digests, min_age_s=0))
    damaged = tuple(version for version in ready if version.digest in broken)
    return Recovery(tuple(finished), tuple(failed), tuple(retired), damaged, removed, garbage)


async def restore_pins(registry: Registry, store: Store, residency: Residency) -> tuple[AdapterError, ...]:
    """Load what is pinned; returns what could not be."""
    errors = []
    for version in await registry.versions.list({VersionState.READY}):
        if version.pinned and version.digest:
            try:
                await residency.pin(version.engine_adapter(store.path(version.digest)))
            except AdapterError as error:
                errors.append(error)
    return tuple(errors)


async def _is_stored(store: Store, version: Version) -> bool:
    digest = version.digest
    if version.state is not VersionState.VERIFIED or digest is None:
        return False
    return not await in_thread(lambda: store.check([digest], deep=True))
