"""Whether the server is alive and ready, for probes, metrics and the routes that need the engine."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Any

from adapters.errors import RegistryUnavailable
from adapters.registry import Registry
from server.engine.supervisor import State, Supervisor
from server.errors import Draining, EngineStalled, EngineUnavailable

_POLL_S = 0.1


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
        """Times a dead or stalled engine was started again."""
        return self.supervisor.restarts

    @property
    def engine_stalls(self) -> int:
        """Times the engine gave no sign of life for `--engine-stall-s`."""
        return self.supervisor.stalls

    @property
    def engine_silent_s(self) -> float:
        """Seconds since the engine's last sign of life."""
        return self.supervisor.silent_s

    @property
    def stall(self) -> EngineStalled | None:
        """The error while a stalled engine is ended and restarted; None otherwise."""
        return EngineStalled() if self.supervisor.stalled else None

    @property
    def engine_alive(self) -> bool:
        """Whether there is an engine that serves and has not died."""
        engine = self.supervisor.engine
        return engine is not None and not engine.errored and self.state in (State.READY, State.DRAINING)

    @property
    def accepts_requests(self) -> bool:
        """Whether a load balancer should send new requests."""
        return self.state is State.READY and self.engine_alive and not self.leaving

    async def registry_serves(self) -> bool:
        """Whether keys and models can be checked: the database answers, or its outage is within the grace."""
        try:
            await self.registry.availability.state()
        except RegistryUnavailable:
            return False
        return True

    @property
    def registry_warning(self) -> str | None:
        """A sentence while the database does not answer."""
        return self.registry.availability.warning

    async def wait_ready(self, timeout_s: float) -> None:
        """Return when the engine serves; wait for one that starts or restarts.

        Raises: EngineUnavailable: it does not serve after `timeout_s`; Draining.
        """
        for _ in range(math.ceil(timeout_s / _POLL_S)):
            if self.state not in (State.STARTING, State.RESTARTING):
                break
            await asyncio.sleep(_POLL_S)
        self.require_ready()

    def require_ready(self) -> None:
        """Return when new requests are served. Raises: EngineUnavailable, Draining."""
        if self.state in (State.DRAINING, State.STOPPED):
            raise Draining(retry_after_s=1)
        if self.stall is not None:
            raise self.stall
        if self.state is not State.READY:
            raise EngineUnavailable(f"The engine is {self.state}; try again shortly.")
