"""Recovery after a restart: unfinished versions are finished or failed, and partial files are removed."""

from __future__ import annotations

from dataclasses import dataclass

from adapters.models import SYSTEM, Version, VersionState
from adapters.registry import Registry
from adapters.registry.state_machine import UNFINISHED
from adapters.sources.threads import in_thread
from adapters.store.store import Store

_STOPPED = "The server stopped while the adapter was being added; add it again."


@dataclass(frozen=True, slots=True)
class Recovery:
    """What the recovery found and did."""

    finished: tuple[Version, ...]  # unfinished, but in the store: now ready
    failed: tuple[Version, ...]  # unfinished and not in the store: now failed
    retired: tuple[Version, ...]  # draining: now retired
    damaged: tuple[Version, ...]  # ready, but their artifact is missing or damaged; they must be added again
    staging_removed: int
    garbage: tuple[str, ...]


async def recover_registry(registry: Registry, store: Store, *, deep: bool) -> Recovery:
    """Make registry and store consistent. Nothing may be added or removed while it runs.

    A ready version with a damaged artifact stays ready: adding the same weights again repairs it.
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


async def _is_stored(store: Store, version: Version) -> bool:
    digest = version.digest
    if version.state is not VersionState.VERIFIED or digest is None:
        return False
    return not await in_thread(lambda: store.check([digest], deep=True))
