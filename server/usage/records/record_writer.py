"""Writes the lines of records once a second, and moves complete files, in threads of their own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from server.usage.records.record_files import PlaceUnavailable, RecordFiles
from server.usage.records.recording import Outcome

logger = logging.getLogger("loragate.records")

FLUSH_INTERVAL_S, PUBLISH_INTERVAL_S = 1.0, 5.0
_REMOVE_INTERVAL_S = 600.0
_CLOSE_S = 5.0


class RecordWriter:
    """See the module. Args: tell: told what became of a line: tenant, what it holds in memory, outcome."""

    def __init__(self, files: RecordFiles, tell: Callable[[str, int, Outcome], None]) -> None:
        self._files = files
        self._tell = tell
        self._lines: defaultdict[str, list[tuple[bytes, int]]] = defaultdict(list)
        self._disk = ThreadPoolExecutor(1, "loragate-records")
        self._publishing = asyncio.Lock()
        self._removed_at = float("-inf")
        self._is_away = False
        self._is_closed = False

    def add(self, tenant: str, line: bytes, held: int) -> None:
        """Write this line with the next `flush`."""
        self._lines[tenant].append((line, held))

    async def flush(self) -> None:
        """Write the lines that are ready; complete the files that are full or old."""
        lines, self._lines = self._lines, defaultdict(list)
        for tenant, entries in lines.items():
            outcome = await self._written(tenant, [line for line, _ in entries])
            for _, held in entries:
                self._tell(tenant, held, outcome)
        await self._complete(everything=False)

    async def publish(self) -> None:
        """Move complete files to their place, and remove old ones there."""
        async with self._publishing:
            try:
                await asyncio.to_thread(self._publish)
            except (PlaceUnavailable, OSError) as error:
                if not self._is_away:
                    logger.error("The place of the records is away; they wait in the data folder: %s", error)
                self._is_away = True
            else:
                self._is_away = False

    async def aclose(self) -> None:
        """Write everything and move all files; the place has some seconds for them. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self.flush()
                await self._complete(everything=True)
                await self.publish()
        self._disk.shutdown(wait=False)

    async def _written(self, tenant: str, lines: list[bytes]) -> Outcome:
        loop = asyncio.get_running_loop()
        try:
            has_room = await loop.run_in_executor(self._disk, self._files.write, tenant, lines)
        except OSError as error:
            logger.error("Records of tenant %s cannot be written: %s", tenant, error.strerror)
            return Outcome.FAILED
        return Outcome.WRITTEN if has_room else Outcome.DROPPED

    async def _complete(self, *, everything: bool) -> None:
        def complete() -> None:
            self._files.complete(everything=everything)

        try:
            await asyncio.get_running_loop().run_in_executor(self._disk, complete)
        except OSError as error:
            logger.error("Files of records cannot be completed: %s", error.strerror)

    def _publish(self) -> None:
        self._files.publish()
        if time.monotonic() - self._removed_at >= _REMOVE_INTERVAL_S:
            self._files.remove_old()
            self._removed_at = time.monotonic()
