"""Whether the server is alive and ready, for probes, metrics and the routes that need the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from adapters.errors import RegistryUnavailable
from adapters.registry import Registry
from server.engine.supervisor import State, Supervisor
from server.errors import Draining, EngineUnavailable


@dataclass(slots=True, eq=False)
class Readiness:
    """The state of the engine and of the registry, and whether this process is about to end."""

    supervisor: Supervisor[Any]
    registry: Registry
    leaving: bool = False
    """Set when the process is about to end: /ready answers 503, and requests are still served."""

    @property
    def state(self) -> State:
        """The supervisor's state."""
        return self.supervisor.state

    @property
    def engine_restarts(self) -> int:
        """Times a dead engine was started again."""
        return self.supervisor.restarts

    @property
    def engine_alive(self) -> bool:
        """Whether there is an engine that serves and has not died."""
        engine = self.supervisor.engine
        return engine is not None and not engine.errored and self.state in (State.READY, State.DRAINING)

    @property
    def accepts_requests(self) -> bool:
        """Whether a load balancer should send new requests."""
        return self.state is State.READY and self.engine_alive and not self.leaving

    async def registry_answers(self) -> bool:
        """Whether the database can be read."""
        try:
            await self.registry.ping()
        except RegistryUnavailable:
            return False
        return True

    def require_ready(self) -> None:
        """Return when new requests are served. Raises: EngineUnavailable, Draining."""
        if self.state in (State.DRAINING, State.STOPPED):
            raise Draining(retry_after_s=1)
        if self.state is not State.READY:
            raise EngineUnavailable(f"The engine is {self.state}; try again shortly.")
