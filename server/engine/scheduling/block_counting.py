"""Tells the arbiter which requests start, and which blocks each takes.

Leans on (vLLM 0.32): KVCacheManager (`allocate_slots`, `get_blocks`, `block_pool.null_block`), which `schedule` calls
for the running requests first, then for each that it has peeked in the waiting queue;
SchedulerOutput.scheduled_cached_reqs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm.v1.core.kv_cache_manager import KVCacheBlocks, KVCacheManager
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import Request

from server.fairness.arbiter import Arbiter


class BlockCounting:
    """Stands in for vLLM's `allocate_slots` while a step starts requests.

    NOTE: vLLM calls it for each running request, too, mostly without new blocks. One call more for each is visible in
    `benchmarks front`, so what those take is read from the step's output.

    Args:
        manager: vLLM's.
        arbiter: is told.
        full_blocks: returns the blocks of a request's whole present sequence.
    """

    def __init__(
        self, manager: KVCacheManager, arbiter: Arbiter, full_blocks: Callable[[Request], int]
    ) -> None:
        self._manager: Any = manager
        self._allocate_slots = manager.allocate_slots
        self._arbiter = arbiter
        self._full_blocks = full_blocks
        self._null_id = manager.block_pool.null_block.block_id

    def begin_step(self) -> None:
        """The running requests take their blocks, by vLLM's own method."""
        self._manager.allocate_slots = self._allocate_slots

    def count_starts(self) -> None:
        """The running requests have their blocks; from now on in this step, requests start."""
        self._manager.allocate_slots = self._allocate_and_count

    def end_step(self, output: SchedulerOutput) -> None:
        """Count the blocks that running requests have taken.

        NOTE: requests that start in the step are compared with their tenant's limit before this. It holds all the
        same: `BlockAccounting.fits_limit` keeps a block for each running sequence, and prompts are counted whole.
        """
        accounting, cached = self._arbiter.accounting, output.scheduled_cached_reqs
        for request_id, groups in zip(cached.req_ids, cached.new_block_ids, strict=True):
            if groups is None or request_id in cached.resumed_req_ids:
                continue
            allocation = accounting.allocation(request_id)
            if allocation is not None:
                new_ids = [block_id for group in groups for block_id in group if block_id != self._null_id]
                accounting.extend(allocation, new_ids)

    def _allocate_and_count(
        self, request: Request, num_new_tokens: int, *, num_new_computed_tokens: int = 0, **others: Any
    ) -> KVCacheBlocks | None:
        """Stands for vLLM's `allocate_slots`."""
        others["num_new_computed_tokens"] = num_new_computed_tokens
        blocks: KVCacheBlocks | None = self._allocate_slots(request, num_new_tokens, **others)
        if blocks is None:
            return None
        allocation = self._arbiter.accounting.allocation(request.request_id)
        if allocation is None:
            self._start(request, num_new_computed_tokens)
        else:
            self._arbiter.accounting.extend(allocation, _block_ids(blocks))
        return blocks

    def _start(self, request: Request, cached_tokens: int) -> None:
        entry = request.loragate_entry
        all_blocks = self._manager.get_blocks(request.request_id)
        self._arbiter.start(entry, _block_ids(all_blocks), self._full_blocks(request))
        self._arbiter.charges.charge_prompt(entry, request.num_prompt_tokens, cached_tokens)


def _block_ids(blocks: KVCacheBlocks) -> list[int]:
    return [block.block_id for group in blocks.blocks for block in group if not block.is_null]
