"""The store as a cache of the depot: artifacts are fetched when needed, the least recently used ones removed.

Without a depot the store has every artifact, and nothing is fetched or removed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial

from adapters.depot.depot import Depot
from adapters.errors import StoreDamaged
from adapters.sources.threads import in_thread
from adapters.store.store import Store

logger = logging.getLogger("loragate.depot")

#: Artifacts that are fetched at the same time; each takes a thread.
_FETCHES = 4


class LocalCopies:
    """The artifacts that this server has or can get.

    Args:
        store: the copies of this server.
        depot: where all artifacts are; None: the store has them all.
        max_bytes: of the copies together; those in use may exceed it. None: no limit.
        in_engine: the first characters of the digests that the engine may read again.
    """

    def __init__(
        self,
        store: Store,
        depot: Depot | None = None,
        max_bytes: int | None = None,
        in_engine: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        self.store = store
        self.depot = depot
        self._max_bytes = max_bytes
        self._in_engine = in_engine
        self._needed: Counter[str] = Counter()
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(_FETCHES)

    @asynccontextmanager
    async def needed(self, digest: str) -> AsyncIterator[None]:
        """Have a whole copy until the end of the block, fetched and verified if need be.

        Raises:
            StoreDamaged: the copy is missing or damaged, and the depot has no whole one.
            DepotUnavailable, StoreFull.
        """
        self._needed[digest] += 1
        try:
            try:
                self.store.require(digest)
            except StoreDamaged:
                if self.depot is None:
                    raise
                await self._fetched(digest)
            self.store.note_use(digest)
            yield
        finally:
            self._release(digest)

    async def share(self, digest: str) -> None:
        """Put the store's copy into the depot, so that other servers have it. Raises: DepotUnavailable."""
        if self.depot is None:
            return
        self._needed[digest] += 1
        try:
            await in_thread(partial(self.depot.put, digest, self.store.path(digest)))
        finally:
            self._release(digest)
        await self._evict()

    async def exists(self, digest: str) -> bool:
        """Whether all servers can get the artifact; a whole copy that is only here is shared.

        Raises: DepotUnavailable.
        """
        is_whole = not await in_thread(lambda: self.store.check([digest], deep=True))
        if self.depot is None:
            return is_whole
        if is_whole:
            await self.share(digest)
            return True
        return await in_thread(partial(self.depot.has, digest))

    def _release(self, digest: str) -> None:
        self._needed[digest] -= 1
        if not self._needed[digest]:
            del self._needed[digest]

    async def _fetched(self, digest: str) -> None:
        """Fetch, or wait for the same fetch; it goes on when one of those who wait leaves."""
        task = self._fetching.get(digest)
        if task is None:
            task = self._fetching[digest] = asyncio.create_task(
                self._fetch(digest), name=f"fetch {digest[:12]}"
            )
            task.add_done_callback(lambda done: self._fetching.pop(digest, None))
        await asyncio.shield(task)

    async def _fetch(self, digest: str) -> None:
        async with self._turns:
            assert self.depot is not None
            await in_thread(partial(self.store.take, digest, partial(self.depot.fetch, digest)))
        logger.info("fetched an adapter from the depot", extra={"digest": digest[:12]})
        await self._evict()

    async def _evict(self) -> None:
        if self.depot is None or self._max_bytes is None:
            return
        loaded = tuple(self._in_engine())
        depot, store = self.depot, self.store

        def may_go(digest: str) -> bool:
            if digest in self._needed or digest in self._fetching or digest.startswith(loaded):
                return False
            if not depot.has(digest):  # it was added before there was a depot
                depot.put(digest, store.path(digest))
            return True

        await in_thread(partial(store.evict, self._max_bytes, may_go))

    async def aclose(self) -> None:
        """Cancel the fetches and wait for their threads."""
        tasks = list(self._fetching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
