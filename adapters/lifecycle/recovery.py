"""Recovery of what dead servers, or an earlier start of this one, have left: unfinished versions, partial files."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from adapters.depot.local_copies import LocalCopies
from adapters.errors import IllegalTransition, UnknownVersion
from adapters.lifecycle.stored_artifacts import collect_garbage
from adapters.models import SYSTEM, Version, VersionState
from adapters.registry import Registry
from adapters.registry.state_machine import UNFINISHED
from adapters.sources.threads import in_thread

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


async def recover_registry(registry: Registry, copies: LocalCopies, *, deep: bool) -> Recovery:
    """Make registry and store consistent, before this server adds or removes anything; others may do so meanwhile.

    A ready version with a damaged artifact stays ready: adding the same weights again repairs it.
    """
    removed = await in_thread(copies.store.clean_staging)
    finished, failed = await take_over(registry, copies)
    drained = [
        await registry.drains.acknowledge(version, by=SYSTEM)
        for version in await registry.versions.list({VersionState.DRAINING})
    ]
    retired = tuple(version for version in drained if version.state is VersionState.RETIRED)
    ready = await registry.versions.list({VersionState.READY})
    digests = {version.digest for version in ready if version.digest}
    if copies.depot is not None:  # what is not here is fetched when it is needed
        digests &= set(await in_thread(copies.store.present))
    broken = await in_thread(lambda: copies.store.check(digests, deep=deep))
    # Without other servers, what was published a moment ago is garbage, too.
    margin_s = None if registry.membership.is_shared else 0.0
    garbage = await collect_garbage(registry, copies.store, clock_margin_s=margin_s)
    damaged = tuple(version for version in ready if version.digest in broken)
    return Recovery(finished, failed, retired, damaged, removed, garbage)


async def take_over(
    registry: Registry, copies: LocalCopies
) -> tuple[tuple[Version, ...], tuple[Version, ...]]:
    """Finish or fail the versions that dead servers were adding; returns (finished, failed)."""
    finished: list[Version] = []
    failed: list[Version] = []
    if not registry.membership.can_judge:
        return (), ()
    living = {replica.id for replica in await registry.membership.live()}
    for version in await registry.versions.list(UNFINISHED):
        if version.owner in living:
            continue
        with suppress(IllegalTransition, UnknownVersion):  # another server was quicker, or it was removed
            digest = version.digest if version.state is VersionState.VERIFIED else None
            if digest is not None and await copies.exists(digest):
                finished.append(await registry.versions.transition(version, VersionState.READY, by=SYSTEM))
            else:
                moved = await registry.versions.transition(
                    version, VersionState.FAILED, by=SYSTEM, error=_STOPPED
                )
                failed.append(moved)
    return tuple(finished), tuple(failed)
