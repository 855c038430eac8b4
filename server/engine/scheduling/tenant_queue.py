"""The waiting queue as vLLM's scheduler sees it.

Leans on (vLLM 0.32): vllm.v1.core.sched.request_queue.RequestQueue, and how `Scheduler.schedule` uses it:
while the queue is true it peeks, allocates and pops, or it pops a request to skip it and prepends it afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.request import Request

from server.fairness.arbiter import Arbiter
from server.fairness.waiting_queue import Entry


class TenantQueue(RequestQueue):
    """Requests in the order in which the arbiter lets them start.

    NOTE: the queue is true when a request *may start now*, not when one waits: a request that waits for its
    tenant's limit or for a LoRA slot is not offered. `len` counts all waiting requests.
    """

    def __init__(self, arbiter: Arbiter, entry_of: Callable[[Request], Entry]) -> None:
        self._arbiter = arbiter
        self._entry_of = entry_of
        self._peeked: Entry | None = None

    def add_request(self, request: Request) -> None:
        """Add a new request."""
        self._arbiter.enqueue(self._entry_of(request))

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
        """Remove and return the request that was peeked.

        NOTE: vLLM pops a starting request after it has allocated the blocks, when the arbiter counts it as
        running already and would name another one. vLLM also pops requests to skip them, so nothing is charged
        here.
        """
        request = self._peeked.item if self._peeked is not None else self.peek_request()
        self._peeked = None
        self._arbiter.dequeue(self._entry_of(request))
        return request

    def prepend_request(self, request: Request) -> None:
        """Put a preempted or skipped request back at its old place."""
        self._arbiter.requeue(self._entry_of(request))

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        """Put skipped requests back at their old places."""
        for request in requests:
            self.prepend_request(request)

    def remove_request(self, request: Request) -> None:
        """Remove a request that ends while it waits."""
        self.remove_requests([request])

    def remove_requests(self, requests: Iterable[Request]) -> None:
        """Remove those of the requests that wait."""
        for request in requests:
            entry = self._entry_of(request)
            if self._arbiter.queue.has(entry):
                self._arbiter.dequeue(entry)

    def __bool__(self) -> bool:
        return self._arbiter.next() is not None

    def __len__(self) -> int:
        return len(self._arbiter.queue)

    def __iter__(self) -> Iterator[Request]:
        return (entry.item for entry in self._arbiter.queue)
