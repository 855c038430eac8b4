"""Opens the registry at the start: waits for its database, and creates or checks its schema."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.errors import RegistryUnavailable, RegistryUnusable
from adapters.registry import Registry, check_schema, connect, migrate
from adapters.registry.replicas.membership import new_replica
from adapters.registry.schema.migration import current_revision
from server.config.settings import Settings

T = TypeVar("T")

logger = logging.getLogger("loragate")

_ALL_ADDRESSES = ("0.0.0.0", "::", "")  # noqa: S104  # they are compared with, not listened on
_RETRY_INTERVAL_S = 0.5
#: While the server waits, the log says so again after this time.
_REMINDER_INTERVAL_S = 10.0


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[AsyncEngine]:
    """The registry's database with this release's schema; a new database gets its tables.

    Raises:
        RegistryUnavailable: it does not answer within --wait-for-database-s.
        RegistryUnusable: it is damaged or read-only, or refuses the user; waiting would not help.
        SchemaMismatch: the database was made by another version.
        StoreFull: the disk is full.
    """
    engine = connect(settings.registry_url)
    try:
        if await retrying(settings.wait_for_database_s, lambda: current_revision(engine)) is None:
            await migrate(settings.registry_url)  # a new database: there is nothing to back up
        await check_schema(engine)
        yield engine
    finally:
        await engine.dispose()


def registry_of(engine: AsyncEngine, settings: Settings) -> Registry:
    """The registry of this server, which has an id that no other process has."""
    return Registry(
        engine,
        reserved_names={settings.base_model_name},
        grace_s=settings.registry_grace_s,
        replica=new_replica(_own_url(settings), version("loragate")),
    )


def _own_url(settings: Settings) -> str:
    """Where this server listens; on all addresses, the name of its machine or pod."""
    host = socket.gethostname() if settings.host in _ALL_ADDRESSES else settings.host
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if settings.tls_cert else 'http'}://{shown}:{settings.port}"


async def retrying(limit_s: float, work: Callable[[], Awaitable[T]]) -> T:
    """The result of `work` as soon as the database answers; the log says that the start waits for it.

    Raises: RegistryUnavailable: it does not answer within `limit_s`; RegistryUnusable; whatever else `work` raises.
    """
    began_s, told_s = time.monotonic(), float("-inf")
    while True:
        try:
            return await work()
        except RegistryUnusable:
            raise
        except RegistryUnavailable as error:
            now_s = time.monotonic()
            if now_s - began_s >= limit_s:
                raise RegistryUnavailable(
                    f"The registry's database did not answer within --wait-for-database-s {limit_s:g}; start the "
                    "database, or check --database-url."
                ) from error
            if now_s - told_s >= _REMINDER_INTERVAL_S:
                told_s, left_s = now_s, limit_s - (now_s - began_s)
                logger.warning(
                    "The registry's database does not answer; the start waits for another %.0f s.", left_s
                )
        await asyncio.sleep(_RETRY_INTERVAL_S)
