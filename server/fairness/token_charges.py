"""Who is charged for what, and when: generated tokens are counted only when somebody reads the counters.

A step of the engine is too short to pay every request for each token. Its own progress says at any time how much
it has generated, so that is read when tenants are about to be compared, and when a request ends or gives way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from server.fairness.virtual_counters import ServiceCounters
from server.fairness.waiting_queue import Entry


class Bills:
    """Charges running requests to the counters of their tenants.

    Args:
        generated_tokens: what an engine's request has generated in all; growing, or lower while a preempted
            request is computed again.
    """

    __slots__ = ("_counters", "_generated_tokens", "_is_settled", "_running")

    def __init__(self, generated_tokens: Callable[[Any], int]) -> None:
        self._generated_tokens = generated_tokens
        self._counters = ServiceCounters()
        self._running: dict[str, Entry] = {}
        self._is_settled = True

    @property
    def counters(self) -> ServiceCounters:
        """The counters as they are now, with all that runs charged up to the last step."""
        if not self._is_settled:
            self._is_settled = True
            for entry in self._running.values():
                self._charge_generated(entry)
        return self._counters

    def open(self, entry: Entry) -> None:
        """The request runs from now on."""
        self._running[entry.request_id] = entry

    def close(self, request_id: str) -> None:
        """It runs no more; call while the engine still knows how far it came."""
        self._charge_generated(self._running.pop(request_id))

    def step(self) -> None:
        """The engine has computed something."""
        self._is_settled = False

    def charge_prompt(self, entry: Entry, prompt_tokens: int, cached_tokens: int) -> None:
        """Charge, when a request starts, the part of its prompt that is not cached; a second time is free."""
        charged = max(entry.charged_prompt_tokens, cached_tokens)
        if prompt_tokens > charged:
            self._counters.charge(entry.tenant, entry.share.weight, prompt_tokens=prompt_tokens - charged)
            entry.charged_prompt_tokens = prompt_tokens

    def _charge_generated(self, entry: Entry) -> None:
        """Charge what the request has generated in all, less what was charged before."""
        generated_tokens = self._generated_tokens(entry.item)
        new_tokens = generated_tokens - entry.charged_generated_tokens
        if new_tokens > 0:
            entry.charged_generated_tokens = generated_tokens
            self._counters.charge(entry.tenant, entry.share.weight, generated_tokens=new_tokens)
