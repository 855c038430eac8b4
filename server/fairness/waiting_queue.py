"""The waiting requests: first come, first served within a tenant.

A request that waits for a LoRA slot does not block those behind it.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from server.fairness.shares import Share


@dataclass(slots=True, eq=False)
class Entry:
    """One request from its arrival to its end, waiting or running.

    Attributes:
        arrival: position in the order of arrival; a preempted request keeps it.
        adapter: vLLM's integer id of its adapter, 0 for the base model.
        item: the engine's own request; None when it has ended.
        charged_prompt_tokens: prompt tokens charged so far; each is charged once, however often it is computed.
        charged_generated_tokens: the same for generated tokens.
    """

    request_id: str
    tenant: str
    share: Share
    adapter: int
    arrival: int
    item: Any = None
    charged_prompt_tokens: int = 0
    charged_generated_tokens: int = 0


class WaitingQueue:
    """Waiting entries by tenant and adapter, each queue in order of arrival."""

    __slots__ = ("_ids", "_tenants")

    def __init__(self) -> None:
        self._tenants: dict[str, dict[int, deque[Entry]]] = {}
        self._ids: set[str] = set()

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[Entry]:
        """All entries in order of arrival."""
        entries = [e for queues in self._tenants.values() for queue in queues.values() for e in queue]
        return iter(sorted(entries, key=lambda entry: entry.arrival))

    def tenants(self) -> list[str]:
        """The tenants with waiting requests."""
        return list(self._tenants)

    def has(self, entry: Entry) -> bool:
        """Whether the request waits."""
        return entry.request_id in self._ids

    def has_tenant(self, tenant: str) -> bool:
        """Whether a request of the tenant waits."""
        return tenant in self._tenants

    def count(self, tenant: str) -> int:
        """Number of the tenant's waiting requests."""
        return sum(len(queue) for queue in self._tenants.get(tenant, {}).values())

    def put(self, entry: Entry) -> None:
        """Add an entry in order of arrival; nearly always that is the last or the first place."""
        queue = self._tenants.setdefault(entry.tenant, {}).setdefault(entry.adapter, deque())
        if not queue or queue[-1].arrival < entry.arrival:
            queue.append(entry)
        elif entry.arrival < queue[0].arrival:
            queue.appendleft(entry)
        else:
            later = next(i for i, other in enumerate(queue) if other.arrival > entry.arrival)
            queue.insert(later, entry)
        self._ids.add(entry.request_id)

    def remove(self, entry: Entry) -> None:
        """Remove an entry from any place in the queue."""
        queues = self._tenants[entry.tenant]
        queue = queues[entry.adapter]
        if queue[0] is entry:
            queue.popleft()
        else:
            queue.remove(entry)
        self._ids.remove(entry.request_id)
        if not queue:
            del queues[entry.adapter]
            if not queues:
                del self._tenants[entry.tenant]

    def heads(self, tenant: str) -> list[Entry]:
        """The first entry of each of the tenant's adapters, in order of arrival."""
        queues = self._tenants[tenant]
        if len(queues) == 1:
            return [next(iter(queues.values()))[0]]
        return sorted((queue[0] for queue in queues.values()), key=lambda entry: entry.arrival)

    def in_order(self, tenant: str, may_start: Callable[[int], bool]) -> Iterable[Entry]:
        """The tenant's entries whose adapter may start, in order of arrival."""
        own = self._tenants[tenant]
        if len(own) == 1:
            adapter, only = next(iter(own.items()))
            return only if may_start(adapter) else ()
        queues = [queue for adapter, queue in own.items() if may_start(adapter)]
        return heapq.merge(*queues, key=attrgetter("arrival"))
