"""Whose job is next: tenants take turns, and each has a bound of jobs that run and of jobs that wait."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from typing import Generic, TypeVar

from server.engine.workers.errors import WorkRefused

Job = TypeVar("Job")


class JobQueue(Generic[Job]):
    """The jobs that wait, by tenant. Pure: no clock, no processes."""

    def __init__(self, *, per_tenant: int, waiting_per_tenant: int) -> None:
        self._per_tenant = per_tenant
        self._waiting_per_tenant = waiting_per_tenant
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()  # whose turn is next comes first
        self._running: Counter[str] = Counter()

    def __len__(self) -> int:
        """How many jobs wait."""
        return sum(map(len, self._waiting.values()))

    def add(self, tenant: str, job: Job) -> None:
        """Let a job wait. Raises: WorkRefused."""
        jobs = self._waiting.setdefault(tenant, deque())
        if len(jobs) >= self._waiting_per_tenant:
            raise WorkRefused(len(jobs))
        jobs.append(job)

    def drop(self, tenant: str, job: Job) -> None:
        """Forget a job that waits; another has no effect."""
        jobs = self._waiting.get(tenant, deque())
        if job in jobs:
            jobs.remove(job)
            if not jobs:
                del self._waiting[tenant]

    def next(self) -> Job | None:
        """The next job that may run; it counts as running until `done`. None: none may."""
        for tenant, jobs in self._waiting.items():
            if self._running[tenant] < self._per_tenant:
                job = jobs.popleft()
                self._running[tenant] += 1
                self._waiting.move_to_end(tenant)
                if not jobs:
                    del self._waiting[tenant]
                return job
        return None

    def done(self, tenant: str) -> None:
        """A running job of this tenant has ended."""
        self._running[tenant] -= 1
        if not self._running[tenant]:
            del self._running[tenant]
