"""Records exchanges beside the requests: a request never waits for its record.

    route --begin--> Recording --end--> worker process (redaction) --> lines --each second--> files

Whatever has no room is dropped and counted. The event loop only appends the parts of an answer to a list.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from adapters.registry.database import utc_now
from sampling.endpoints import Endpoint
from server.engine.workers.errors import WorkFailed, WorkRefused, WorkTimedOut
from server.engine.workers.pool import WorkerPool
from server.request.context import Caller, RequestContext
from server.usage.records.chat_rows import NoRow
from server.usage.records.record_files import RecordFiles
from server.usage.records.record_writer import RecordWriter
from server.usage.records.recording import Outcome, Recording
from server.usage.records.render import Exchange, prepare, render

logger = logging.getLogger("loragate.records")

#: Of one request and its answer together.
MAX_EXCHANGE_BYTES = 2 << 20
#: In memory, of all tenants and of one.
MAX_HELD_BYTES, MAX_HELD_BYTES_PER_TENANT = 64 << 20, 16 << 20
#: Most time for the redaction of one exchange.
LIMIT_S = 2.0
#: A tenant whose patterns took too long has no records for so long.
PAUSE_S = 60.0
_CLOSE_S = 5.0


class Redaction(Protocol):
    """Runs `render` where it can be ended (`WorkerPool`)."""

    async def run(self, tenant: str, task: Callable[..., bytes], *arguments: Any, limit_s: float) -> bytes:
        """The line. Raises: WorkFailed, and what the task raises."""

    async def close(self) -> None:
        """End all work."""


def workers() -> Redaction:
    """The processes that redact."""
    return WorkerPool(
        prepare,
        workers=2,
        spare=1,
        waiting_per_tenant=128,
        memory_bytes=512 << 20,
        name="loragate records worker",
    )


class Recorder:
    """See the module.

    Args:
        files: where the lines go; None: this server keeps no records.
        draw: a number from 0 to 1, by chance; nothing of a request has an influence on it.
        redaction: makes what runs `render`, when it is needed first.
    """

    def __init__(
        self,
        files: RecordFiles | None,
        draw: Callable[[], float] = random.random,
        redaction: Callable[[], Redaction] = workers,
    ) -> None:
        self._writer = None if files is None else RecordWriter(files, self._tell)
        self._draw = draw
        self._make_redaction = redaction
        self._redaction: Redaction | None = None
        self._held: Counter[str] = Counter()
        self._held_of_all = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._paused_until: dict[str, float] = {}
        self.counts: Counter[Outcome] = Counter()

    @contextmanager
    def recording(self, caller: Caller, endpoint: Endpoint, request: bytes) -> Iterator[Recording | None]:
        """While a request is answered: its recording; None if it is not chosen."""
        recording = self.begin(caller, endpoint, request)
        try:
            yield recording
        finally:
            if recording is not None:
                self.end(recording)

    def begin(self, caller: Caller, endpoint: Endpoint, request: bytes) -> Recording | None:
        """Choose a request by chance; None: it is not recorded; whoever calls this calls `end`."""
        settings = caller.tenant.settings.records if caller.tenant else None
        if settings is None or self._writer is None or self._draw() >= settings.share:
            return None
        recording = Recording(caller.tenant_name, settings, endpoint, request, self._hold)
        if time.monotonic() < self._paused_until.get(recording.tenant, 0.0):
            recording.drop(Outcome.TIMEOUT)
        elif (reason := self._hold(recording, len(request))) is not None:
            recording.drop(reason)
        return recording

    def end(self, recording: Recording) -> None:
        """Queue the exchange if its answer is complete."""
        context = recording.context
        answer = "".join(recording.events) if recording.events else recording.whole
        if recording.outcome is not None or context is None or answer is None:
            self._tell(recording.tenant, recording.held, recording.outcome or Outcome.INCOMPLETE)
            return
        exchange = Exchange(
            recording.endpoint,
            recording.request,
            answer,
            bool(recording.events),
            recording.settings.patterns,
            _facts(context),
        )
        task = asyncio.create_task(self._redact(recording.tenant, recording.held, exchange), name="record")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def flush(self) -> None:
        """Write the lines that are ready."""
        if self._writer is not None:
            await self._writer.flush()

    async def publish(self) -> None:
        """Move complete files to their place, and remove old ones there."""
        if self._writer is not None:
            await self._writer.publish()

    async def aclose(self) -> None:
        """Write the exchanges that are complete, and move all files."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._redaction is not None:
            await self._redaction.close()
        if self._writer is not None:
            await self._writer.aclose()

    def _hold(self, recording: Recording, characters: int) -> Outcome | None:
        """Take room for a part of an exchange; returns why there is none."""
        if recording.held + characters > MAX_EXCHANGE_BYTES:
            return Outcome.TOO_LARGE
        of_tenant, of_all = self._held[recording.tenant] + characters, self._held_of_all + characters
        if of_tenant > MAX_HELD_BYTES_PER_TENANT or of_all > MAX_HELD_BYTES:
            return Outcome.DROPPED
        self._held[recording.tenant], self._held_of_all = of_tenant, of_all
        recording.held += characters
        return None

    def _tell(self, tenant: str, held: int, outcome: Outcome) -> None:
        """An exchange has ended: count it, and give its room back."""
        self.counts[outcome] += 1
        self._held_of_all -= held
        self._held[tenant] -= held
        if not self._held[tenant]:
            del self._held[tenant]

    async def _redact(self, tenant: str, held: int, exchange: Exchange) -> None:
        assert self._writer is not None
        if self._redaction is None:
            self._redaction = self._make_redaction()
        outcome = Outcome.FAILED
        try:
            line = await self._redaction.run(tenant, render, exchange, limit_s=LIMIT_S)
        except asyncio.CancelledError:  # the server ends
            self._tell(tenant, held, Outcome.DROPPED)
            raise
        except NoRow as none:
            outcome = Outcome(none.reason)
        except WorkRefused:
            outcome = Outcome.DROPPED
        except WorkTimedOut:
            outcome = Outcome.TIMEOUT
            self._pause(tenant)
        except WorkFailed as error:
            logger.warning("A request of tenant %s was not recorded: %s", tenant, error)
        except Exception:  # any library may raise it in the worker; the request was answered long ago
            logger.exception("A request of tenant %s was not recorded.", tenant)
        else:
            self._writer.add(tenant, line, held)
            return
        self._tell(tenant, held, outcome)

    def _pause(self, tenant: str) -> None:
        self._paused_until[tenant] = time.monotonic() + PAUSE_S
        logger.warning(
            "The redaction of a request of tenant %s took more than %g s, and it was not recorded; nothing of the "
            "tenant is recorded for %g s. Simplify its patterns.",
            *(tenant, LIMIT_S, PAUSE_S),
        )


def _facts(context: RequestContext) -> dict[str, Any]:
    version = context.target.version
    return {
        "id": context.request_id,
        "at": utc_now().isoformat(timespec="seconds"),
        "model": context.target.model,
        "version": version.number if version else None,
    }
