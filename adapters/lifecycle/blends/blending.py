"""Blends: new versions that are combinations of versions of the same tenant, made without training."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from adapters.artifact.combination import ScaledArtifact
from adapters.depot.local_copies import LocalCopies
from adapters.errors import BadValue
from adapters.lifecycle.adding import Rules
from adapters.models import Actor, Version
from adapters.names import check_adapter_name
from adapters.registry import Registry
from adapters.registry.state_machine import check_serves
from adapters.sources import BlendSource

#: Most adapters of one blend.
MAX_PARTS = 8
#: Largest scale, of either sign.
MAX_SCALE = 4.0


@dataclass(frozen=True, slots=True)
class BlendPart:
    """An adapter of the same tenant and what its update is multiplied by; without a number: the version it serves."""

    adapter: str
    number: int | None
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class ScaledVersion:
    """A version, and what its update is multiplied by."""

    version: Version
    scale: float

    def __str__(self) -> str:
        return f"{self.version.adapter}@{self.version.number}:{self.scale:g}"


def check_scale(scale: float) -> float:
    """The scale itself. Raises: BadValue."""
    if not math.isfinite(scale) or scale == 0 or abs(scale) > MAX_SCALE:
        raise BadValue(
            f"A scale of {scale:g} is not possible: it must be between -{MAX_SCALE:g} and {MAX_SCALE:g} and not 0; "
            "leave an adapter out instead of giving it the scale 0."
        )
    return scale


def check_parts(names: Sequence[object]) -> None:
    """Check how many adapters a blend has, and that none comes twice. Raises: BadValue."""
    if not 1 <= len(names) <= MAX_PARTS:
        raise BadValue(f"A blend has 1 to {MAX_PARTS} adapters, not {len(names)}; name some.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadValue(f"{twice!r} is named twice; name it once, with the sum of its scales.")


def recipe_of(parts: Sequence[ScaledVersion], reduce_rank: int | None) -> dict[str, Any]:
    """What a blend was made of, as it is stored with its version and shown.

    Returns: `of` (adapter, version, digest and scale of each part) and `reduce_rank`; `rank` and `relative_error`
    are added when it has been computed.
    """
    of = [
        {
            "adapter": p.version.adapter,
            "version": p.version.number,
            "digest": p.version.digest,
            "scale": p.scale,
        }
        for p in parts
    ]
    return {"of": of, "reduce_rank": reduce_rank}


class Blending:
    """Makes blends.

    Args:
        registry, copies, rules: as for every new version.
        register: adds a version from a source (`Lifecycle.register`).
    """

    def __init__(
        self,
        registry: Registry,
        copies: LocalCopies,
        rules: Rules,
        register: Callable[..., Awaitable[Version]],
    ) -> None:
        self._registry = registry
        self._copies = copies
        self._rules = rules
        self._register = register

    async def blend(
        self,
        tenant: str,
        adapter: str,
        parts: Sequence[BlendPart],
        *,
        by: Actor,
        reduce_rank: int | None = None,
        sampling_defaults: Mapping[str, Any] | None = None,
    ) -> Version:
        """Add a version that is a combination of versions of this tenant; it serves nothing until it is promoted.

        Without `reduce_rank` it is exact.
        Raises: BadName, BadValue; UnknownAdapter, UnknownVersion; IllegalTransition: a part is not ready;
            StoreDamaged, DepotUnavailable; as `Lifecycle.register`.
        """
        if reduce_rank is not None and not 1 <= reduce_rank <= self._rules.max_lora_rank:
            raise BadValue(
                f"The rank {reduce_rank} is not between 1 and --max-lora-rank {self._rules.max_lora_rank}."
            )
        check_adapter_name(adapter)
        check_parts([f"{part.adapter}@{part.number}" if part.number else part.adapter for part in parts])
        found = [ScaledVersion(await self._version(tenant, part), check_scale(part.scale)) for part in parts]
        async with self._source(found, reduce_rank) as source:
            return await self._register(tenant, adapter, source, by=by, sampling_defaults=sampling_defaults)

    async def _version(self, tenant: str, part: BlendPart) -> Version:
        number = part.number
        if number is None:
            alias = await self._registry.aliases.get(tenant, part.adapter)
            if len(alias.targets) != 1:
                await self._registry.adapters.get(tenant, part.adapter)  # raises for an unknown one
                state = "serves no version" if not alias.targets else "is split over several versions"
                raise BadValue(f"{tenant}-{part.adapter} {state}; name one, as in {part.adapter}@1.")
            number = alias.targets[0].number
        return check_serves(await self._registry.versions.get(tenant, part.adapter, number))

    @asynccontextmanager
    async def _source(
        self, parts: Sequence[ScaledVersion], reduce_rank: int | None
    ) -> AsyncIterator[BlendSource]:
        """The parts' files, which stay in the store until the end of the block."""
        label = "blend " + ", ".join(map(str, parts))
        if reduce_rank is not None:
            label += f", reduced to rank {reduce_rank}"
        async with AsyncExitStack() as stack:
            for part in parts:
                await stack.enter_async_context(self._copies.needed(str(part.version.digest)))
            yield BlendSource(
                scaled_artifacts(self._copies, parts),
                label,
                self._rules.base,
                self._rules.max_lora_rank,
                reduce_rank,
                recipe_of(parts, reduce_rank),
            )


def scaled_artifacts(copies: LocalCopies, parts: Sequence[ScaledVersion]) -> tuple[ScaledArtifact, ...]:
    """The folders of the parts in the store."""
    return tuple(ScaledArtifact(copies.store.path(str(p.version.digest)), p.scale) for p in parts)
