"""Charges prompt and generated tokens to the tenants' virtual counters, lazily.

Charging every request in every step would cost too much. A request's progress shows at any time how many tokens it
has generated, so it is read only when tenants are compared and when a request ends or is preempted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from server.fairness.virtual_counters import VirtualTokenCounters
from server.fairness.waiting_queue import Entry


class TokenCharges:
    """Charges running requests to the counters of their tenants.

    Args:
        generated_tokens: returns the total of tokens that a request has generated. It grows, but is lower
            while a preempted request is computed again.
    """

    __slots__ = ("_generated_tokens", "_is_settled", "_running", "_virtual_counters")

    def __init__(self, generated_tokens: Callable[[Any], int]) -> None:
        self._generated_tokens = generated_tokens
        self._virtual_counters = VirtualTokenCounters()
        self._running: dict[str, Entry] = {}
        self._is_settled = True

    @property
    def virtual_counters(self) -> VirtualTokenCounters:
        """The counters, with every running request charged up to the last step."""
        if not self._is_settled:
            self._is_settled = True
            for entry in self._running.values():
                self._charge_generated(entry)
        return self._virtual_counters

    def open(self, entry: Entry) -> None:
        """Start to charge a request."""
        self._running[entry.request_id] = entry

    def close(self, request_id: str) -> None:
        """Charge a request for the last time; call while the engine still knows its progress."""
        self._charge_generated(self._running.pop(request_id))

    def note_step(self) -> None:
        """The engine computes a step, so the running requests have new tokens to charge."""
        self._is_settled = False

    def charge_prompt(self, entry: Entry, prompt_tokens: int, cached_tokens: int) -> None:
        """Charge the part of a starting request's prompt that is not cached; each prompt token is charged once."""
        charged = max(entry.charged_prompt_tokens, cached_tokens)
        if prompt_tokens > charged:
            self._virtual_counters.charge(
                entry.tenant, entry.share.weight, prompt_tokens=prompt_tokens - charged
            )
            entry.charged_prompt_tokens = prompt_tokens

    def _charge_generated(self, entry: Entry) -> None:
        generated_tokens = self._generated_tokens(entry.item)
        new_tokens = generated_tokens - entry.charged_generated_tokens
        if new_tokens > 0:
            entry.charged_generated_tokens = generated_tokens
            self._virtual_counters.charge(entry.tenant, entry.share.weight, generated_tokens=new_tokens)
