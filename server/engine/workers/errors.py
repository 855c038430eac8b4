"""Why work in a worker process ended without a result. Their callers translate them into sentences for the tenant.

WorkFailed
├── WorkRefused    too many jobs of this tenant wait already
├── WorkTimedOut   the job ran longer than its limit
└── WorkerDied     the process crashed, or needed more memory than it may use
"""

from __future__ import annotations


class WorkFailed(Exception):
    """The work has no result."""


class WorkRefused(WorkFailed):
    """Too many jobs of one tenant wait already; none was started."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting} jobs of this tenant wait already.")
        self.waiting = waiting


class WorkTimedOut(WorkFailed):
    """The job ran longer than `limit_s`; its process was killed."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"The job ran longer than {limit_s:g} s.")
        self.limit_s = limit_s


class WorkerDied(WorkFailed):
    """The process of the job ended: it crashed, or needed more than `memory_bytes`."""

    def __init__(self, memory_bytes: int) -> None:
        super().__init__(f"The process of the job crashed or needed more than {memory_bytes >> 20} MiB.")
        self.memory_bytes = memory_bytes
