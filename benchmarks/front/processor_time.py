"""The processor time of a server's processes, as the kernel counts it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import psutil

from benchmarks.harness.servers import ServerProcess


@dataclass(frozen=True, slots=True)
class ProcessorTime:
    """Seconds of user and system time since the start: of the API process, of EngineCore and of all others."""

    api_s: float
    engine_s: float
    other_s: float

    def since(self, before: ProcessorTime) -> ProcessorTime:
        """What was used since an earlier reading."""
        return ProcessorTime(
            self.api_s - before.api_s, self.engine_s - before.engine_s, self.other_s - before.other_s
        )


def processor_time(server: ServerProcess) -> ProcessorTime:
    """Read the times of all processes of a server; the API process is the one that was started."""
    found = {"api": 0.0, "engine": 0.0, "other": 0.0}
    for process in server.processes():
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            is_api = process.pid == server.process.pid
            kind = "api" if is_api else "engine" if _is_engine(process) else "other"
            found[kind] += times.user + times.system
    return ProcessorTime(found["api"], found["engine"], found["other"])


def _is_engine(process: psutil.Process) -> bool:
    """vLLM gives EngineCore its name."""
    return "EngineCore" in " ".join([process.name(), *process.cmdline()])
