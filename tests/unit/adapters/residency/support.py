"""An event loop whose clock jumps, and an engine that checks how it is used."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from adapters.errors import EngineGone, LoadFailed, ProbeFailed
from adapters.models import EngineAdapter
from adapters.residency import Residency


class JumpingLoop(asyncio.SelectorEventLoop):
    """Waits are over at once, in order; a wait for nothing is a deadlock and fails."""

    def __init__(self) -> None:
        selector = selectors.DefaultSelector()
        super().__init__(selector)
        self.now_s = 0.0
        poll = selector.select

        def select(timeout: float | None = None) -> list[Any]:
            assert timeout is not None, "deadlock: nothing will ever happen"
            self.now_s += timeout
            return poll(0)

        selector.select = select  # type: ignore[method-assign]

    def time(self) -> float:
        return self.now_s


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    """Run it to the end; what an engine asserted in a task of its own fails it, too."""
    broken: list[BaseException] = []
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(
            lambda _, report: broken.append(report.get("exception") or AssertionError(report))
        )
        result = runner.run(scenario)
    if broken:
        raise broken[0]
    return result


class CheckingLoader:
    """An engine with `capacity` places. NOTE: vLLM would evict a victim silently where this one asserts."""

    def __init__(self, capacity: int, load_s: float = 0.1, unload_s: float = 0.05) -> None:
        self.capacity, self.load_s, self.unload_s = capacity, load_s, unload_s
        self.ids: set[int] = set()
        self.busy: set[int] = set()
        self.calls: list[tuple[str, int]] = []
        self.refused: set[int] = set()
        self.bad_probes: set[int] = set()
        self.gone = False
        self.residency: Residency | None = None

    async def load(self, adapter: EngineAdapter) -> None:
        self.calls.append(("load", adapter.engine_id))
        await self._move(adapter.engine_id, self.load_s)
        if adapter.engine_id in self.refused:
            self.ids.add(adapter.engine_id)  # registered halfway, as vLLM may do
            raise LoadFailed("refused")
        self.ids.add(adapter.engine_id)
        assert len(self.ids) <= self.capacity, (self.ids, self.calls)

    async def unload(self, engine_id: int) -> None:
        self.calls.append(("unload", engine_id))
        served = engine_id in self.ids - self.refused
        assert not (served and self.holders(engine_id)), "a held adapter was unloaded"
        await self._move(engine_id, self.unload_s)
        self.ids.discard(engine_id)

    async def loaded(self) -> frozenset[int]:
        ids = frozenset(self.ids)
        await asyncio.sleep(0.02)
        if self.gone:
            raise EngineGone("no engine")
        return ids

    async def probe(self, adapter: EngineAdapter) -> None:
        assert adapter.engine_id in self.ids
        if adapter.engine_id in self.bad_probes:
            raise ProbeFailed("not finite")

    def holders(self, engine_id: int) -> int:
        assert self.residency is not None
        return sum(s.holders for s in self.residency.snapshot().slots if s.engine_id == engine_id)

    async def _move(self, engine_id: int, duration_s: float) -> None:
        assert engine_id not in self.busy, "two calls for one id overlap"
        self.busy.add(engine_id)
        try:
            await asyncio.sleep(duration_s)
            if self.gone:
                raise EngineGone("no engine")
        finally:
            self.busy.discard(engine_id)


def engine_adapter(engine_id: int) -> EngineAdapter:
    return EngineAdapter(engine_id, f"acme/a{engine_id}@1#0123456789ab", Path(f"/store/{engine_id}"))


def build(capacity: int, **options: Any) -> tuple[Residency, CheckingLoader]:
    loader = CheckingLoader(capacity)
    residency = Residency(lambda: loader, capacity, **options)
    loader.residency = residency
    return residency, loader
