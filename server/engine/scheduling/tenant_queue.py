"""The waiting queue as vLLM's scheduler sees it.

Leans on (vLLM 0.32): vllm.v1.core.sched.request_queue.RequestQueue, and how `Scheduler.schedule` uses it:
while the queue is true it peeks, allocates and pops, or it pops a request to skip it and prepends it afterwards.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

from vllm.logger import init_logger
from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.request import Request

from server.fairness.arbiter import Arbiter
from server.fairness.shares import STAMP_KEY, InvalidStamp, Share, read_stamp
from server.fairness.waiting_queue import Entry

logger = init_logger(__name__)


class TenantQueue(RequestQueue):
    """Requests in the order in which the arbiter lets them start.

    NOTE: the queue is true when a request *may start now*, not when one waits: a request that waits for its
    tenant's limit or for a LoRA slot is not offered. `len` counts all waiting requests.

    Args:
        arbiter: holds the waiting requests.
        watches: whether a request is watched for repetition loops.
        before_start: called before a request gets its first blocks.
    """

    def __init__(
        self, arbiter: Arbiter, watches: Callable[[Request], bool], before_start: Callable[[], None]
    ) -> None:
        self._arbiter = arbiter
        self._watches = watches
        self._before_start = before_start
        self._arrivals = itertools.count()
        self._peeked: Entry | None = None

    def entry_of(self, request: Request) -> Entry:
        """The arbiter's record of a request; it is kept on vLLM's request object."""
        entry: Entry | None = getattr(request, "loragate_entry", None)
        if entry is None:
            tenant, share = _stamp_of(request)
            request.loragate_is_watched = self._watches(request)
            entry = request.loragate_entry = Entry(
                request_id=request.request_id,
                tenant=tenant,
                share=share,
                adapter=request.lora_request.lora_int_id if request.lora_request else 0,
                arrival=next(self._arrivals),
                item=request,
            )
        return entry

    def add_request(self, request: Request) -> None:
        """Add a new request."""
        self._arbiter.enqueue(self.entry_of(request))

    def peek_request(self) -> Request:
        """The request that should start now.

        Raises:
            IndexError: none may.
        """
        entry = self._arbiter.next()
        if entry is None:
            raise IndexError("no request may start now")
        self._peeked = entry
        self._before_start()
        return entry.item

    def pop_request(self) -> Request:
        """Remove and return the request that was peeked.

        NOTE: vLLM pops a starting request after it has allocated the blocks, when the arbiter counts it as
        running already and would name another one. vLLM also pops requests to skip them, so nothing is charged
        here.
        """
        request = self._peeked.item if self._peeked is not None else self.peek_request()
        self._peeked = None
        self._arbiter.dequeue(self.entry_of(request))
        return request

    def prepend_request(self, request: Request) -> None:
        """Put a preempted or skipped request back at its old place."""
        self._arbiter.requeue(self.entry_of(request))

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
            entry = self.entry_of(request)
            if self._arbiter.queue.has(entry):
                self._arbiter.dequeue(entry)

    def __bool__(self) -> bool:
        return self._arbiter.next() is not None

    def __len__(self) -> int:
        return len(self._arbiter.queue)

    def __iter__(self) -> Iterator[Request]:
        return (entry.item for entry in self._arbiter.queue)


def _stamp_of(request: Request) -> tuple[str, Share]:
    """The tenant and its share; the operator's for a request without a readable stamp."""
    arguments = request.sampling_params.extra_args if request.sampling_params else None
    try:
        return read_stamp((arguments or {}).get(STAMP_KEY))
    except InvalidStamp:
        # An exception here would end the engine for all tenants.
        logger.exception("Request %s carries a stamp that cannot be read.", request.request_id)
        return "", Share()
