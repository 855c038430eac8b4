"""Stored artifacts: removes those that no version needs any more, and finds damaged ones."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from adapters.depot.depot import Depot
from adapters.depot.local_copies import LocalCopies
from adapters.models import Version, VersionState
from adapters.registry import Registry
from adapters.sources.threads import in_thread
from adapters.store.store import Store

#: How far the times of files may be behind the clock.
_CLOCK_MARGIN_S = 1.0
#: Most artifacts that one call removes from the depot; the next one goes on.
_MAX_REMOVALS = 100


async def collect_garbage(
    registry: Registry, store: Store, *, clock_margin_s: float | None = None
) -> tuple[str, ...]:
    """Remove what no version needs; returns the digests. Raises: RegistryUnavailable, OSError.

    A version has its digest in the registry before its artifact is published. So what was published before the query
    began, and is not in its result, is needed by nobody; what was published later is left for the next call.
    """
    asked_at = time.time()
    needed = await registry.versions.digests()
    min_age_s = time.time() - asked_at + (_CLOCK_MARGIN_S if clock_margin_s is None else clock_margin_s)
    return await in_thread(lambda: store.collect_garbage(needed, min_age_s=min_age_s))


async def find_damage(registry: Registry, copies: LocalCopies, *, pause_s: float) -> tuple[Version, ...]:
    """Hash this server's copy of every ready version, one after the other; returns those without a whole one.

    With a depot, a copy that the depot lacks is put there, and what is not here is not damaged.
    """
    ready = await registry.versions.list({VersionState.READY})
    digests = {version.digest for version in ready if version.digest}
    if copies.depot is not None:
        digests &= set(await in_thread(copies.store.present))
    damaged = set()
    for digest in sorted(digests):
        if not await copies.exists(digest):
            damaged.add(digest)
        await asyncio.sleep(pause_s)
    return tuple(version for version in ready if version.digest in damaged)


async def collect_depot_garbage(registry: Registry, depot: Depot) -> tuple[str, ...]:
    """Remove from the depot what no version needs, but nothing young; one server at a time.

    Returns: the digests. Raises: RegistryUnavailable, DepotUnavailable.
    """
    stored = await in_thread(depot.digests)
    needed = await registry.versions.digests()
    unneeded = sorted(stored - needed)[:_MAX_REMOVALS]
    removed = [digest for digest in unneeded if await in_thread(partial(depot.remove, digest))]
    return tuple(removed)
