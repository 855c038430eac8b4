"""The processes of one engine: whether they make progress, and how they are ended when they do not.

Leans on (vLLM 0.32): vllm.v1.engine.async_llm.AsyncLLM (output_handler, output_processor.propagate_error),
AsyncMPClient (call_utility_async, utility_results, resources.engine_manager.processes), EngineDeadError.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path

from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from server.engine.process import stall_report
from server.engine.process.heartbeat import PING_METHOD, LifeSigns
from server.engine.process.watchdog import Watchdog

logger = logging.getLogger("loragate.engine")


class EngineProcesses:
    """Watches the processes of one engine.

    Args:
        client: vLLM's client of the engine.
        signs: what the engine's processes report.
        reports: folder for reports of stalls.
    """

    def __init__(self, client: AsyncLLM, signs: LifeSigns, reports: Path) -> None:
        self._client = client
        self._signs = signs
        self._reports = reports
        self._watchdog = Watchdog(signs, partial(client.engine_core.call_utility_async, PING_METHOD))

    def watch(self) -> float:
        """Seconds without a sign of life; call it several times a second (`Watchdog.tick`)."""
        return self._watchdog.tick()

    async def kill(self) -> None:
        """End a stalled engine: its requests fail at once, a report is saved, then its processes are killed."""
        self.end_waits()
        pids = [process.pid for process in self._client.engine_core.resources.engine_manager.processes]
        try:
            file = await asyncio.to_thread(stall_report.save_report, pids, self._signs.stacks, self._reports)
            logger.error("The stacks of the stalled engine are saved.", extra={"report": str(file)})
        except OSError as error:
            logger.error("The stacks of the stalled engine cannot be saved: %s", error)
        if left := await asyncio.to_thread(stall_report.kill_stalled, pids):
            logger.error("Processes of the stalled engine do not end.", extra={"pids": left})

    def end_waits(self) -> None:
        """End every wait for this engine with EngineDeadError.

        NOTE: vLLM ends the generations of an engine that has died, but not the calls of its utilities: an
        `add_lora` would wait for ever.
        """
        self._watchdog.close()
        if self._client.output_handler is not None:
            self._client.output_handler.cancel()  # it would log the end of the engine as a failure of its own
        self._client.output_processor.propagate_error(EngineDeadError())
        for call in self._client.engine_core.utility_results.values():
            if not call.done():
                call.set_exception(EngineDeadError())

    def close(self) -> None:
        """Free what the signs of life hold, when the processes have ended."""
        self._signs.close()
