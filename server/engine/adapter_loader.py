"""`adapters.residency.Loader` over whichever engine runs at the moment."""

from __future__ import annotations

from adapters.errors import EngineGone
from adapters.models import EngineAdapter
from server.engine.runtime import Engine
from server.engine.supervisor import Supervisor


class CurrentEngine:
    """Hands each call to the engine of the moment; between two engines every call raises EngineGone."""

    def __init__(self, supervisor: Supervisor[Engine]) -> None:
        self._supervisor = supervisor

    async def load(self, adapter: EngineAdapter) -> None:
        """See `Engine.load`."""
        await self._engine().load(adapter)

    async def unload(self, engine_id: int) -> None:
        """See `Engine.unload`."""
        await self._engine().unload(engine_id)

    async def loaded(self) -> frozenset[int]:
        """See `Engine.loaded`."""
        return await self._engine().loaded()

    async def probe(self, adapter: EngineAdapter) -> None:
        """See `Engine.probe`."""
        await self._engine().probe(adapter)

    def _engine(self) -> Engine:
        engine = self._supervisor.engine
        if engine is None or engine.errored:
            raise EngineGone("the engine is not there at the moment")
        return engine
