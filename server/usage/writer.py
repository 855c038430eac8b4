"""Writes usage to the database exactly once; what the database does not take waits in memory and on disk.

Usage is sent in numbered batches, one after the other. A batch that was sent and not confirmed may be in the database
or not: it is sent again unchanged, and the database ignores a number that it has. Usage that comes meanwhile is
summed in the next batch, so a long outage needs one row per tenant, adapter, version and hour.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from adapters.errors import AdapterError, RegistryUnavailable
from adapters.models import BatchId, Usage
from adapters.registry.usage import add_up_usage, key_of
from server.usage.spool import Batch, UsageSpool

T = TypeVar("T")

logger = logging.getLogger("loragate.ledger")

#: Usage that the database has not taken after this time is written to the disk as well.
PATIENCE_S = 1.0
#: The start waits at most this long for the usage of earlier processes; the rest is written while the server runs.
RECOVERY_PATIENCE_S = 15.0
#: The most rows that wait for the database; usage beyond them is lost, and counted.
MAX_WAITING_ROWS = 20_000


class UsageTable(Protocol):
    """The registry's usage table (`adapters.registry.usage`)."""

    async def add(self, batch: Iterable[Usage], batch_id: BatchId | None = None) -> bool:
        """Add a batch in one transaction, unless it was added before."""


class UsageWriter:
    """Sends usage to the table, and keeps it until the table has it. Calls of `add` must not overlap.

    Args:
        table: the registry's table.
        spool: the files for usage that waits.
    """

    def __init__(self, table: UsageTable, spool: UsageSpool) -> None:
        self._table = table
        self._spool = spool
        self._disk = ThreadPoolExecutor(
            1, "loragate-usage"
        )  # one thread: the last state of a file is the newest
        self._sequence = 0
        self._sent: deque[Batch] = deque()  # sent and not confirmed, or of an earlier process; never changed
        self._next: dict[tuple[object, ...], Usage] = {}  # not sent yet
        self._next_grew = False  # since it was written to the disk
        self._files: dict[BatchId, tuple[Usage, ...]] = {}  # what lies on the disk
        self._sending: asyncio.Task[None] | None = None
        self._failing = False
        self._disk_failing = False
        self.lost_tokens = 0
        """Prompt plus generated tokens that found no room while the database was away."""

    @property
    def waiting_rows(self) -> int:
        """The rows that the database does not have, as far as is known."""
        return sum(len(batch.rows) for batch in self._sent) + len(self._next)

    async def recover(self) -> None:
        """Send what earlier processes left on the disk; what the database does not take now is sent later.

        Raises: OSError: the spool cannot be read.
        """
        left = await self._on_disk(self._spool.load)
        self._sent.extend(left)
        self._files |= {batch.id: batch.rows for batch in left}
        if left:
            logger.warning("%d rows of usage wait on the disk; they are written now.", self.waiting_rows)
            await asyncio.wait({self._start_sending()}, timeout=RECOVERY_PATIENCE_S)  # budgets are read next

    async def add(self, usage: Iterable[Usage]) -> None:
        """Send the usage, or keep it until the database takes it; returns within about PATIENCE_S."""
        for row in usage:
            self._take(row)
        if not self.waiting_rows:
            return
        await asyncio.wait({self._start_sending()}, timeout=PATIENCE_S)
        await self._keep()

    async def aclose(self) -> None:
        """Stop sending. What the database has not confirmed lies on the disk for the next process."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait({self._sending})
        await self._on_disk(self._spool.close)
        self._disk.shutdown()

    def _take(self, row: Usage) -> None:
        key = key_of(row)
        if key not in self._next and self.waiting_rows >= MAX_WAITING_ROWS:
            if not self.lost_tokens:
                logger.error(
                    "%d rows of usage wait for the database, the most that are kept; further usage of other "
                    "tenants, versions or hours is lost (loragate_usage_lost_tokens_total).",
                    MAX_WAITING_ROWS,
                )
            self.lost_tokens += row.prompt_tokens + row.generated_tokens
            return
        self._next[key] = add_up_usage(self._next.get(key), row)
        self._next_grew = True

    def _start_sending(self) -> asyncio.Task[None]:
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_all(), name="usage")
            self._sending.add_done_callback(self._ended)
        return self._sending

    async def _send_all(self) -> None:
        while self._sent or self._next:
            if not self._sent:
                self._sequence += 1
                batch_id = BatchId(self._spool.writer, self._sequence)
                self._sent.append(Batch(batch_id, tuple(self._next.values())))
                self._next = {}
            batch = self._sent[0]
            await self._table.add(batch.rows, batch.id)
            self._sent.popleft()
            if self._files.pop(batch.id, None) is not None:
                await self._remove(batch.id)

    def _ended(self, sending: asyncio.Task[None]) -> None:
        self._sending = None
        error = None if sending.cancelled() else sending.exception()
        if error is not None and not isinstance(error, AdapterError | SQLAlchemyError):
            report = {"message": "Usage could not be written.", "exception": error, "task": sending}
            sending.get_loop().call_exception_handler(report)
        elif error is not None and not self._failing:  # once per outage
            cause = None if isinstance(error, RegistryUnavailable) else error
            logger.error("Usage could not be written; it waits, and is sent again.", exc_info=cause)
        self._failing = error is not None

    async def _keep(self) -> None:
        """Write to the disk what waits and is not there yet."""
        waiting = [batch for batch in self._sent if self._files.get(batch.id) is not batch.rows]
        if self._next and self._next_grew:
            following = BatchId(self._spool.writer, self._sequence + 1)
            waiting.append(Batch(following, tuple(self._next.values())))
            self._next_grew = False
        for batch in waiting:
            try:
                await self._on_disk(lambda batch=batch: self._spool.keep(batch))  # type: ignore[misc]
            except OSError:
                self._next_grew = True
                if not self._disk_failing:  # once
                    logger.exception(
                        "Usage that waits for the database could not be written to the disk either."
                    )
                self._disk_failing = True
                return
            self._disk_failing = False
            self._files[batch.id] = batch.rows
            if batch.id.sequence <= self._sequence and all(batch.id != sent.id for sent in self._sent):
                del self._files[batch.id]  # confirmed meanwhile
                await self._remove(batch.id)

    async def _remove(self, batch_id: BatchId) -> None:
        try:
            await self._on_disk(lambda: self._spool.remove(batch_id))
        except OSError:  # the next start sends it once more, which changes nothing
            logger.exception("A file of usage that the database has could not be removed.")

    async def _on_disk(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)
