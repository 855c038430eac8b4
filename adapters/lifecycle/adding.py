"""Adds a version: from its source to the state ready (registered -> fetched -> verified -> ready)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from adapters.artifact import ArtifactReport, BaseShape, explain_unapplied, inspect_artifact
from adapters.artifact.provenance import read_provenance
from adapters.depot.local_copies import LocalCopies
from adapters.errors import AdapterError, ArtifactRefused, IllegalTransition, UnknownVersion
from adapters.models import Actor, Version, VersionState
from adapters.registry import Registry
from adapters.registry.state_machine import ENDED
from adapters.sources import BlendSource, Progress, Source, fetch
from adapters.sources.threads import in_thread
from adapters.store.store import Staging, Store


@dataclass(frozen=True, slots=True)
class Rules:
    """What the checks of new adapters compare with."""

    base: BaseShape
    max_lora_rank: int
    max_bytes: int = 2 << 30
    base_digest: str | None = None
    base_tokens: frozenset[str] | None = None  # beside the vocabulary of the base model's tokenizer
    base_folder: Path | None = None  # the base model's files, for hints that compare its weights
    lora_layers: Callable[[], frozenset[str] | None] = lambda: None
    """Paths of the layers to which the engine applies LoRA; None: no engine has started yet, so do not compare."""


class VersionAdder:
    """Adds registered versions to the store."""

    def __init__(self, registry: Registry, copies: LocalCopies, rules: Rules) -> None:
        self._versions = registry.versions
        self._copies = copies
        self._rules = rules

    async def add(
        self, version: Version, source: Source | BlendSource, *, by: Actor, progress: Progress
    ) -> Version:
        """Fetch, check and store a registered version's files; the version fails if that fails.

        Raises: as `fetch`, `inspect_artifact`, `Store.publish`, `LocalCopies.share`; ArtifactRefused: also if the
            engine would leave out a part of it; IllegalTransition: it was removed meanwhile.
        """
        try:
            return await self._prepare(version, source, by, progress)
        except BaseException as error:  # a cancelled fetch also leaves a failed version
            await asyncio.shield(self._fail(version, error, by))
            raise

    async def _prepare(
        self, version: Version, source: Source | BlendSource, by: Actor, progress: Progress
    ) -> Version:
        store, rules, transition = self._copies.store, self._rules, self._versions.transition
        async with _staging(store) as staging:
            fetched = await fetch(source, staging.files, max_bytes=rules.max_bytes, progress=progress)
            facts = (
                {"recipe": {**(version.recipe or {}), **fetched.combination}} if fetched.combination else {}
            )
            version = await transition(version, VersionState.FETCHED, by=by, source=fetched.label, **facts)
            report = await in_thread(
                lambda: inspect_artifact(
                    staging.files,
                    base=rules.base,
                    max_lora_rank=rules.max_lora_rank,
                    base_digest=rules.base_digest,
                    max_bytes=rules.max_bytes,
                )
            )
            self._check_applied(report)
            brought = await in_thread(
                lambda: read_provenance(
                    staging.files, report.hints, base_tokens=rules.base_tokens, base_folder=rules.base_folder
                )
            )
            artifact = await in_thread(lambda: store.seal(staging, report.config))
            # The digest is in the registry before the artifact is in the store: no garbage collection takes it.
            version = await transition(
                version,
                VersionState.VERIFIED,
                by=by,
                digest=artifact.digest,
                rank=report.rank,
                size_bytes=artifact.size_bytes,
                training=None if report.training is None else dict(report.training),
                brought=brought,
            )
            await in_thread(lambda: store.publish(staging, artifact))
            await self._copies.share(artifact.digest)
        return await transition(version, VersionState.READY, by=by)

    def _check_applied(self, report: ArtifactReport) -> None:
        """Check that the engine leaves out no layer. Raises: ArtifactRefused."""
        layers = self._rules.lora_layers()
        if layers is not None and (reason := explain_unapplied(report.modules, layers)):
            raise ArtifactRefused(reason)

    async def _fail(self, version: Version, error: BaseException, by: Actor) -> None:
        """Mark a version as failed, with the reason, whichever step it had reached."""
        reason = str(error) if isinstance(error, AdapterError) else "Adding it was interrupted; add it again."
        try:
            now = await self._versions.get(version.tenant, version.adapter, version.number)
            if now.state not in ENDED:
                await self._versions.transition(now, VersionState.FAILED, by=by, error=reason)
        except (IllegalTransition, UnknownVersion):
            return  # it was removed meanwhile


@asynccontextmanager
async def _staging(store: Store) -> AsyncIterator[Staging]:
    """`Store.staging` without blocking the event loop."""
    manager = store.staging()
    staging = await in_thread(manager.__enter__)
    try:
        yield staging
    finally:
        await asyncio.shield(in_thread(lambda: manager.__exit__(None, None, None)))
