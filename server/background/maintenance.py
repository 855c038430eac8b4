"""What keeps adapters in order beside the traffic: after a start, and for ever after."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy.exc import SQLAlchemyError

from adapters.errors import AdapterError
from adapters.lifecycle import Lifecycle
from adapters.models import Version

logger = logging.getLogger("loragate.house")

#: How often registry and engine are compared.
RECONCILE_INTERVAL_S = 15.0


class MaintenanceLoop:
    """Recovers, checks the store, and mends what drifts."""

    def __init__(self, lifecycle: Lifecycle, engine_serves: Callable[[], bool]) -> None:
        self._lifecycle = lifecycle
        self._engine_serves = engine_serves

    async def recover(self) -> None:
        """Before the engine starts: finish or fail what a dead process had begun, and tell of it."""
        found = await self._lifecycle.recover()
        told = {"finished": found.finished, "failed": found.failed, "retired": found.retired}
        for how, versions in told.items():
            for version in versions:
                logger.warning("%s was left half-way by the last run and is now %s", _name(version), how)
        _tell_damage(found.damaged)

    async def keep(self) -> None:
        """Mend what drifts, until cancelled: the engine's adapters, broken-off drains, files nobody needs.

        Beside it, once, every stored adapter is hashed: what looks whole may have rotted.
        """
        await asyncio.gather(
            self._again_and_again(self._reconcile, once=False),
            self._again_and_again(self._check_store, once=True),
        )

    async def _again_and_again(self, work: Callable[[], Awaitable[None]], *, once: bool) -> None:
        """Do it every RECONCILE_INTERVAL_S while the engine serves; `once`: until it has succeeded."""
        while True:
            await asyncio.sleep(RECONCILE_INTERVAL_S)
            if not self._engine_serves():
                continue
            try:
                await work()
            except (AdapterError, SQLAlchemyError, OSError):
                logger.exception("keeping house failed; it is tried again")
                continue
            if once:
                return

    async def _reconcile(self) -> None:
        if drift := await self._lifecycle.reconcile():
            logger.warning("engine and registry differed and were mended: %s", drift)

    async def _check_store(self) -> None:
        _tell_damage(await self._lifecycle.check_store())


def _tell_damage(versions: Sequence[Version]) -> None:
    for version in versions:
        logger.error("the stored copy of %s is missing or damaged; add it again", _name(version))


def _name(version: Version) -> str:
    return f"{version.public_name}@{version.number}"
