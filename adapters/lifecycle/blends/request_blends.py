"""Blends that single requests ask for: made once, kept while they are used, and bounded for each tenant.

They are no versions: nothing of them is in the registry, and they are gone when the process ends. A tenant has at
most `per_tenant` of them; a further one takes the place of its own least recently used one, in the engine, too. So a
tenant that asks for ever new scales removes only its own blends.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from adapters.billing.sliding_window import SlidingWindow
from adapters.depot.local_copies import LocalCopies
from adapters.errors import BadValue, BlendLimit, EngineGone, LoadFailed
from adapters.lifecycle.adding import Rules
from adapters.lifecycle.blends.blend_files import BlendFiles, BlendFolder
from adapters.lifecycle.blends.blending import ScaledVersion, scaled_artifacts
from adapters.models import EngineAdapter
from adapters.residency import Residency
from adapters.sources.fetching import BLENDING
from adapters.sources.threads import in_thread

#: Engine ids from here on are blends; the registry counts those of versions from 1.
FIRST_ENGINE_ID = 1 << 30

#: A blend that no request uses is removed after this time.
IDLE_S = 600.0

_Key = tuple[str, tuple[tuple[str, float], ...]]


@dataclass(frozen=True, slots=True)
class BlendLimits:
    """The bounds of what requests can make."""

    per_tenant: int = 4  # at the same time; 0 refuses all
    per_minute: int = 12  # new ones of one tenant
    max_bytes: int = 8 << 30  # of all together, on the disk
    wait_s: float = 30.0  # that a request waits for one


@dataclass(slots=True, eq=False)
class _Blend:
    """One blend. `making` ends when it can be loaded."""

    tenant: str
    size_bytes: int
    making: asyncio.Task[EngineAdapter] = field(init=False)
    holders: int = 0
    used_at_s: float = field(default_factory=time.monotonic)

    @property
    def is_idle(self) -> bool:
        return self.holders == 0 and self.making.done()


class RequestBlends:
    """Makes, holds and removes the blends of one server."""

    def __init__(self, copies: LocalCopies, residency: Residency, rules: Rules, limits: BlendLimits) -> None:
        self._copies = copies
        self._residency = residency
        self._files = BlendFiles(copies.store, rules)
        self._limits = limits
        self._blends: dict[_Key, _Blend] = {}
        self._made: defaultdict[str, SlidingWindow] = defaultdict(SlidingWindow)
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._removals: set[asyncio.Task[None]] = set()
        self._engine_ids = itertools.count(FIRST_ENGINE_ID)

    @property
    def count(self) -> int:
        """Blends that exist or are being made."""
        return len(self._blends)

    @asynccontextmanager
    async def hold(self, tenant: str, parts: Sequence[ScaledVersion]) -> AsyncIterator[EngineAdapter]:
        """Keep the blend of these versions, all the tenant's, loaded until the block ends; make it if need be.

        The order of the parts has no meaning.
        Raises: BlendLimit; BadValue: requests may make none; ArtifactRefused: its rank or size is above a limit;
            StoreFull, StoreDamaged, DepotUnavailable; as `Residency.hold`.
        """
        if self._limits.per_tenant == 0:
            raise BadValue(
                "This server makes no blends for requests (--max-blends 0); call a version that was made with "
                "`loragate adapter blend`."
            )
        parts = sorted(parts, key=lambda part: (str(part.version.digest), part.scale))
        key = (tenant, tuple((str(part.version.digest), part.scale) for part in parts))
        blend = self._blends.get(key) or self._begin(key, parts)
        blend.holders += 1
        try:
            adapter = await self._wait_for(blend)
            async with AsyncExitStack() as stack:
                try:
                    await stack.enter_async_context(self._residency.hold(adapter))
                except LoadFailed as error:
                    if not isinstance(
                        error, EngineGone
                    ):  # vLLM may have a part of it: never use this id again
                        self._drop(key, blend)
                    raise
                yield adapter
        finally:
            blend.holders -= 1
            blend.used_at_s = time.monotonic()

    def drop_idle(self, idle_s: float = IDLE_S) -> None:
        """Remove the blends that no request has used for so long, also those of versions that are gone."""
        before_s = time.monotonic() - idle_s
        for key, blend in list(self._blends.items()):
            if blend.is_idle and blend.used_at_s < before_s:
                self._drop(key, blend)

    async def aclose(self) -> None:
        """End what is being made or removed, and remove the files."""
        tasks = [blend.making for blend in self._blends.values()] + list(self._removals)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await in_thread(self._files.close, executor=BLENDING)

    async def _wait_for(self, blend: _Blend) -> EngineAdapter:
        try:
            async with asyncio.timeout(self._limits.wait_s):
                return await asyncio.shield(blend.making)
        except TimeoutError:
            raise BlendLimit(
                f"The blend was not ready within {self._limits.wait_s:g} s, because others are being made; "
                "try again, it is being made.",
                retry_after_s=5.0,
            ) from None

    def _begin(self, key: _Key, parts: Sequence[ScaledVersion]) -> _Blend:
        """Start making a blend, within the tenant's limits. Raises: BlendLimit."""
        tenant, limits, now_s = key[0], self._limits, time.monotonic()
        made = self._made[tenant]
        if made.total(now_s) >= limits.per_minute:
            raise BlendLimit(
                f"{limits.per_minute} new blends were made within the last minute, the most of --blends-per-minute; "
                "use the same scales again, or add a version with `loragate adapter blend`.",
                retry_after_s=made.wait_s(now_s, 1),
            )
        # A part of 16 bits takes twice its size, because the result has 32.
        size_bytes = 2 * sum(part.version.size_bytes or 0 for part in parts)
        self._make_room(tenant, size_bytes)
        made.add(now_s, 1)
        blend = _Blend(tenant, size_bytes)
        blend.making = asyncio.create_task(self._make(blend, parts), name=f"blend of {tenant}")
        blend.making.add_done_callback(partial(self._ended, key, blend))
        self._blends[key] = blend
        return blend

    def _make_room(self, tenant: str, size_bytes: int) -> None:
        """Remove idle blends until one more is within the limits. Raises: BlendLimit: those that remain are used."""
        limits = self._limits
        # However many a tenant may have, one half of the engine's slots stays for others.
        most = min(limits.per_tenant, max(1, self._residency.capacity // 2))
        while True:
            own = sum(blend.tenant == tenant for blend in self._blends.values())
            total = sum(blend.size_bytes for blend in self._blends.values())
            if own < most and total + size_bytes <= limits.max_bytes:
                return
            idle = [
                (blend.tenant != tenant, blend.used_at_s, key)
                for key, blend in self._blends.items()
                if blend.is_idle and (blend.tenant == tenant or own < most)
            ]
            if not idle:
                raise BlendLimit(_full_text(own, most, limits.max_bytes), retry_after_s=5.0)
            key = min(idle)[2]
            self._drop(key, self._blends[key])

    async def _make(self, blend: _Blend, parts: Sequence[ScaledVersion]) -> EngineAdapter:
        async with AsyncExitStack() as stack:
            for part in parts:
                await stack.enter_async_context(self._copies.needed(str(part.version.digest)))
            # One at a time for each tenant, so that others wait for one of its blends and not for all of them.
            await stack.enter_async_context(self._turns[blend.tenant])
            artifacts = scaled_artifacts(self._copies, parts)
            folder: BlendFolder = await in_thread(lambda: self._files.write(artifacts), executor=BLENDING)
        blend.size_bytes = folder.size_bytes
        engine_id = next(self._engine_ids)
        name = f"{blend.tenant}/blend-{engine_id - FIRST_ENGINE_ID}#{folder.digest[:12]}"
        return EngineAdapter(engine_id, name, folder.path)

    def _ended(self, key: _Key, blend: _Blend, making: asyncio.Task[EngineAdapter]) -> None:
        if (making.cancelled() or making.exception()) and self._blends.get(key) is blend:
            del self._blends[key]

    def _drop(self, key: _Key, blend: _Blend) -> None:
        """Forget a blend that was made, and remove it when its last request has ended."""
        if self._blends.get(key) is blend:
            del self._blends[key]
            removal = asyncio.create_task(self._remove(blend.making.result()), name="remove a blend")
            self._removals.add(removal)
            removal.add_done_callback(self._removals.discard)

    async def _remove(self, adapter: EngineAdapter) -> None:
        await self._residency.retire(adapter.engine_id, forget=True)
        await in_thread(lambda: self._files.remove(adapter.path.name), executor=BLENDING)


def _full_text(own: int, most: int, max_bytes: int) -> str:
    if own >= most:
        return (
            f"Running requests use {own} blends of this tenant, the most at the same time (--max-blends, and at most "
            "half of the engine's slots); try again when one of them has ended, or use the same scales."
        )
    return f"The blends in use and this one would have more than {max_bytes} bytes together; try again later."
