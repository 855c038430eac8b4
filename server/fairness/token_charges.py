"""Charges prompt and generated tokens to the tenants' virtual counters, lazily.

Charging every request in every step would cost too much. A request's progress shows at any time how many tokens it
has generated, so it is read only when its tenant is compared with others and when it ends or is preempted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from server.fairness.virtual_counters import VirtualTokenCounters
from server.fairness.waiting_queue import Entry


class TokenCharges:
    """Charges running requests to the counters of their tenants.

    Args:
        generated_tokens: returns the total of tokens that a request has generated. It grows, but is lower
            while a preempted request is computed again.
    """

    __slots__ = ("_entries", "_generated_tokens", "_running", "_settled", "_virtual_counters")

    def __init__(self, generated_tokens: Callable[[Any], int]) -> None:
        self._generated_tokens = generated_tokens
        self._virtual_counters = VirtualTokenCounters()
        self._entries: dict[str, Entry] = {}
        self._running: dict[str, dict[str, Entry]] = {}
        self._settled: set[str] = set()  # tenants that are charged up to the last step

    @property
    def virtual_counters(self) -> VirtualTokenCounters:
        """The counters, with every running request charged up to the last step."""
        self._settle(self._running)
        return self._virtual_counters

    def service_of(self, tenants: Collection[str]) -> Callable[[str], float]:
        """What compares these tenants: their counters. A single one is compared with none, so none is charged."""
        if len(tenants) > 1:
            self._settle(tenants)
        return self._virtual_counters.of

    def lift(self, tenant: str, waiting: Iterable[str]) -> None:
        """See `VirtualTokenCounters.lift`; the tenants that it compares are charged before."""
        compared = [*waiting]
        emptied = self._virtual_counters.last_emptied
        self._settle([tenant, *compared, *([] if emptied is None else [emptied])])
        self._virtual_counters.lift(tenant, compared)

    def note_empty(self, tenant: str) -> None:
        """See `VirtualTokenCounters.note_empty`."""
        self._virtual_counters.note_empty(tenant)

    def open(self, entry: Entry) -> None:
        """Start to charge a request."""
        self._entries[entry.request_id] = entry
        self._running.setdefault(entry.tenant, {})[entry.request_id] = entry

    def close(self, request_id: str) -> None:
        """Charge a request for the last time; call while the engine still knows its progress."""
        entry = self._entries.pop(request_id)
        own = self._running[entry.tenant]
        del own[request_id]
        if not own:
            del self._running[entry.tenant]
        self._charge_generated(entry.tenant, (entry,))

    def is_in_prompt(self, request_id: str) -> bool:
        """Whether a running request still computes its prompt."""
        return self._generated_tokens(self._entries[request_id].item) <= 0

    def note_step(self) -> None:
        """The engine computes a step, so the running requests have new tokens to charge."""
        self._settled.clear()

    def _settle(self, tenants: Iterable[str]) -> None:
        """Charge the running requests of these tenants up to the last step."""
        for tenant in tenants:
            if tenant not in self._settled:
                self._settled.add(tenant)
                self._charge_generated(tenant, self._running.get(tenant, {}).values())

    def charge_prompt(self, entry: Entry, prompt_tokens: int, cached_tokens: int) -> None:
        """Charge the part of a starting request's prompt that is not cached; each prompt token is charged once."""
        charged = max(entry.charged_prompt_tokens, cached_tokens)
        if prompt_tokens > charged:
            self._virtual_counters.charge(
                entry.tenant, entry.share.weight, prompt_tokens=prompt_tokens - charged
            )
            entry.charged_prompt_tokens = prompt_tokens

    def _charge_generated(self, tenant: str, entries: Iterable[Entry]) -> None:
        weighted_tokens = 0.0
        for entry in entries:
            generated_tokens = self._generated_tokens(entry.item)
            new_tokens = generated_tokens - entry.charged_generated_tokens
            if new_tokens > 0:
                entry.charged_generated_tokens = generated_tokens
                weighted_tokens += new_tokens / entry.share.weight
        if weighted_tokens:
            self._virtual_counters.charge(tenant, 1.0, generated_tokens=weighted_tokens)
