"""Background maintenance of adapters: recovery at start, then periodic reconciliation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy.exc import SQLAlchemyError

from adapters.errors import AdapterError, RegistryUnavailable
from adapters.lifecycle import Lifecycle
from adapters.models import Version

logger = logging.getLogger("loragate.maintenance")

#: How often registry and engine are compared.
RECONCILE_INTERVAL_S = 15.0


class MaintenanceLoop:
    """Recovers after a start, checks the store once, and reconciles the engine with the registry."""

    def __init__(self, lifecycle: Lifecycle, engine_serves: Callable[[], bool]) -> None:
        self._lifecycle = lifecycle
        self._engine_serves = engine_serves

    async def recover(self) -> None:
        """Finish or fail, before the engine starts, the versions that a dead process left unfinished; log each."""
        found = await self._lifecycle.recover()
        outcomes = {"finished": found.finished, "failed": found.failed, "retired": found.retired}
        for outcome, versions in outcomes.items():
            for version in versions:
                logger.warning("The last run left %s unfinished; it is now %s.", _name(version), outcome)
        _log_damage(found.damaged)

    async def run(self) -> None:
        """Reconcile until cancelled: the engine's adapters, interrupted drains, files that nothing needs.

        In parallel every stored adapter is hashed once, because a complete file may still be damaged.
        """
        await asyncio.gather(
            self._repeat(self._reconcile, once=False),
            self._repeat(self._check_store, once=True),
        )

    async def _repeat(self, work: Callable[[], Awaitable[None]], *, once: bool) -> None:
        """Do `work` every RECONCILE_INTERVAL_S while the engine serves; with `once`, until it has succeeded."""
        while True:
            await asyncio.sleep(RECONCILE_INTERVAL_S)
            if not self._engine_serves():
                continue
            try:
                await work()
            except RegistryUnavailable:
                logger.warning("Maintenance waits for the registry's database.")
                continue
            except (AdapterError, SQLAlchemyError, OSError):
                logger.exception("Maintenance failed; it runs again in %g s.", RECONCILE_INTERVAL_S)
                continue
            if once:
                return

    async def _reconcile(self) -> None:
        if drift := await self._lifecycle.reconcile():
            logger.warning("The engine differed from the registry and was reconciled: %s", drift)

    async def _check_store(self) -> None:
        _log_damage(await self._lifecycle.check_store())


def _log_damage(versions: Sequence[Version]) -> None:
    for version in versions:
        logger.error("The stored copy of %s is missing or damaged; add the version again.", _name(version))


def _name(version: Version) -> str:
    return f"{version.public_name}@{version.number}"
