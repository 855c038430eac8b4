"""The engine that loads adapters (`adapters.residency.Loader`): the one that runs now."""

from __future__ import annotations

from adapters.errors import EngineGone
from server.engine.runtime import Engine
from server.engine.supervisor import Supervisor


def running_engine(supervisor: Supervisor[Engine]) -> Engine:
    """The engine that runs now. Raises: EngineGone: none does, as between two engines."""
    engine = supervisor.engine
    if engine is None or engine.errored:
        raise EngineGone("No engine is running at the moment; try again shortly.")
    return engine
