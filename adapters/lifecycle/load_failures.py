"""Versions that failed to load: a pause before the next try, and a new engine id for it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from adapters.errors import EngineGone, LoadFailed, RegistryUnavailable
from adapters.models import SYSTEM, Version
from adapters.registry import Registry

_RETRY_AFTER_S = 10.0


class LoadFailures:
    """The failed loads of this process.

    NOTE: vLLM may keep a part of what failed to load, so an engine id is never tried a second time.
    """

    def __init__(self, registry: Registry) -> None:
        self._versions = registry.versions
        self._engine_ids: set[int] = set()
        self._pauses: dict[tuple[str, int], tuple[float, LoadFailed]] = {}  # end of the pause, and its reason

    async def usable(self, version: Version) -> Version:
        """The version with an engine id that may be tried. Raises: LoadFailed: it failed a moment ago."""
        until_s, error = self._pauses.get((version.public_name, version.number), (0.0, None))
        if error is not None and time.monotonic() < until_s:
            raise LoadFailed(str(error))
        if version.engine_id in self._engine_ids:
            version = await self._versions.get(version.tenant, version.adapter, version.number)
        if version.engine_id in self._engine_ids:  # its renewal failed as well
            version = await self._versions.renew_engine_id(version, by=SYSTEM)
        return version

    @asynccontextmanager
    async def recording(self, version: Version) -> AsyncIterator[None]:
        """Record a load that fails in this block, and give the version a new engine id."""
        try:
            yield
        except EngineGone:
            raise
        except LoadFailed as error:
            self._engine_ids.add(version.engine_id)
            until_s = time.monotonic() + _RETRY_AFTER_S
            self._pauses[version.public_name, version.number] = (until_s, error)
            with suppress(RegistryUnavailable):  # `usable` tries again; the caller learns of the failed load
                await self._versions.renew_engine_id(version, by=SYSTEM)
            raise
