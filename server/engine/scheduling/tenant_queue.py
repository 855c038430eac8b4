"""vLLM's view of the waiting line.

Leans on (vLLM 0.32): vllm.v1.core.sched.request_queue.RequestQueue, and how `Scheduler.schedule` uses it:
while the queue is true it peeks, allocates and pops, or pops to skip and prepends what it skipped afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.request import Request

from server.fairness.arbiter import Arbiter
from server.fairness.waiting_queue import Entry


class TenantQueue(RequestQueue):
    """Requests in the order in which the arbiter lets them start.

    NOTE: it is true when a request *may start now*, not when one waits: what waits for its tenant's limit or
    for a LoRA slot is not offered. `len` counts all.
    """

    def __init__(self, arbiter: Arbiter, entry_of: Callable[[Request], Entry]) -> None:
        self._arbiter = arbiter
        self._entry_of = entry_of
        self._peeked: Entry | None = None

    def add_request(self, request: Request) -> None:
        """A request arrives."""
        self._arbiter.arrive(self._entry_of(request))

    def peek_request(self) -> Request:
        """The request that should start now.

        Raises:
            IndexError: none may.
        """
        entry = self._arbiter.next()
        if entry is None:
            raise IndexError("no request may start now")
        self._peeked = entry
        return entry.item

    def pop_request(self) -> Request:
        """Take out the request that was peeked.

        NOTE: vLLM pops what starts after allocating its blocks, when the arbiter already counts it as running
        and would name another; and it pops what it skips. So nothing is charged here.
        """
        request = self._peeked.item if self._peeked is not None else self.peek_request()
        self._peeked = None
        self._arbiter.take(self._entry_of(request))
        return request

    def prepend_request(self, request: Request) -> None:
        """A preempted or skipped request comes back to its old place."""
        self._arbiter.put_back(self._entry_of(request))

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        """Skipped requests come back to their old places."""
        for request in requests:
            self.prepend_request(request)

    def remove_request(self, request: Request) -> None:
        """The request ends while it waits."""
        self.remove_requests([request])

    def remove_requests(self, requests: Iterable[Request]) -> None:
        """Those of the requests that wait here end."""
        for request in requests:
            entry = self._entry_of(request)
            if self._arbiter.line.has(entry):
                self._arbiter.take(entry)

    def __bool__(self) -> bool:
        return self._arbiter.next() is not None

    def __len__(self) -> int:
        return len(self._arbiter.line)

    def __iter__(self) -> Iterator[Request]:
        return (entry.item for entry in self._arbiter.line)
