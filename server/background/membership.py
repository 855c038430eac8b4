"""This server among those that share the registry: its heartbeat, and what it does for the others and with them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError

from adapters.errors import AdapterError, RegistryUnavailable
from adapters.lifecycle import Lifecycle
from adapters.registry import Registry
from adapters.registry.replicas.membership import HEARTBEAT_S
from server.admission.leases import REPORT_INTERVAL_S, Leases
from server.usage.shared_answers import FLUSH_INTERVAL_S, SharedAnswers

logger = logging.getLogger("loragate.replicas")

#: How often it is looked whether the registry has changed.
CONVERGE_INTERVAL_S = 0.5
#: How often it is looked whether another server wants to promote a version.
PROVE_INTERVAL_S = 0.5
#: How often it is looked for what dead servers have left unfinished.
TAKE_OVER_INTERVAL_S = 1.0
#: How often what no version needs is removed from the depot.
DEPOT_GARBAGE_INTERVAL_S = 600.0
_FORGET_INTERVAL_S = 3600.0
_LEAVE_TIMEOUT_S = 2.0


class MembershipLoop:
    """Runs from before the recovery until the server ends; `also` is further work, each with its interval (s)."""

    def __init__(
        self,
        registry: Registry,
        lifecycle: Lifecycle,
        leases: Leases,
        answers: SharedAnswers,
        engine_serves: Callable[[], bool],
        also: Sequence[tuple[Callable[[], Awaitable[None]], float]] = (),
    ) -> None:
        self._registry = registry
        self._lifecycle = lifecycle
        self._leases = leases
        self._answers = answers
        self._engine_serves = engine_serves
        self._also = also
        self._seen_state: int | None = None

    async def join(self) -> None:
        """Write that this server lives. Raises: RegistryUnavailable."""
        await self._registry.membership.beat()

    async def run(self) -> None:
        """Beat, take over and converge until cancelled; one server on SQLite has nobody to tell."""
        loops = [
            self._repeat(self._converge, CONVERGE_INTERVAL_S),
            self._repeat(self._collect_depot_garbage, DEPOT_GARBAGE_INTERVAL_S),
            *(self._repeat(work, interval_s) for work, interval_s in self._also),
        ]
        if self._registry.membership.is_shared:
            loops += [
                self._repeat(self._beat, HEARTBEAT_S),
                self._repeat(self._prove, PROVE_INTERVAL_S),
                self._repeat(self._take_over, TAKE_OVER_INTERVAL_S),
                self._repeat(self._leases.report, REPORT_INTERVAL_S),
                self._repeat(self._answers.flush, FLUSH_INTERVAL_S),
                self._repeat(self._forget, _FORGET_INTERVAL_S),
            ]
        await asyncio.gather(*loops)

    async def leave(self) -> None:
        """Give all leases back and write that this server ends; without a database it is found dead later."""
        if not self._registry.membership.is_shared:
            return
        with suppress(RegistryUnavailable, TimeoutError, SQLAlchemyError, OSError):
            async with asyncio.timeout(_LEAVE_TIMEOUT_S):
                await self._leases.aclose()
                await self._answers.flush()
                await self._registry.membership.leave()

    async def _repeat(self, work: Callable[[], Awaitable[None]], interval_s: float) -> None:
        while True:
            await asyncio.sleep(interval_s)
            try:
                await work()
            except RegistryUnavailable:  # its own log says so
                continue
            except (AdapterError, SQLAlchemyError, OSError):
                logger.exception("The registry's state could not be applied; it is tried again.")

    async def _beat(self) -> None:
        await self._registry.membership.beat(serves=self._engine_serves())

    async def _prove(self) -> None:
        """Begin to prove what other servers want to promote."""
        if self._engine_serves():
            await self._lifecycle.proving.answer()

    async def _converge(self) -> None:
        """Apply the registry's state where it has changed since the last time."""
        if not self._engine_serves():
            self._seen_state = None
            return
        state = await self._registry.availability.state()
        if state != self._seen_state:
            await self._lifecycle.converge()
            self._seen_state = state

    async def _collect_depot_garbage(self) -> None:
        if removed := await self._lifecycle.collect_depot_garbage():
            logger.info("%d adapters that no version needs were removed from the depot.", len(removed))

    async def _forget(self) -> None:
        """Delete what nobody needs any more."""
        for part in (self._registry.membership, self._registry.outcomes, self._registry.answers):
            await part.forget()
        await self._registry.proofs.forget()

    async def _take_over(self) -> None:
        await self._registry.leases.take_over()
        for version in await self._lifecycle.take_over():
            name = f"{version.public_name}@{version.number}"
            logger.warning("A server that died left %s unfinished; it is now %s.", name, version.state.value)
