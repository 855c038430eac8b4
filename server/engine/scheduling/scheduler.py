"""vLLM's scheduler, directed by `server.fairness`: which request starts next, and which are preempted.

Leans on (vLLM 0.32): AsyncScheduler and Scheduler (`schedule`, `_preempt_request`, `_update_after_schedule`,
`update_from_output`, `_update_request_with_output`, `_free_request_blocks`, `running`, `waiting`,
`_inflight_prefills`), KVCacheManager (`get_computed_blocks`), BlockPool, Request.
Given to vLLM as the dotted name `server.engine.scheduling.scheduler.TenantScheduler` and built in the EngineCore
process.
"""

from __future__ import annotations

import copy
import time
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from server.engine.decoding.grammars.prepared_backend import take_prepared
from server.engine.decoding.grammars.watched_grammar import has_ended
from server.engine.decoding.repetition_steering import LoopWatch
from server.engine.process.heartbeat import answer_pings, beat
from server.engine.scheduling.block_counting import BlockCounting
from server.engine.scheduling.engine_capacity import capacity, lora_slots
from server.engine.scheduling.prompt_logprob_rows import PromptLogprobRows
from server.engine.scheduling.scheduler_report import install, report
from server.engine.scheduling.step_rows import StepRows
from server.engine.scheduling.tenant_queue import TenantQueue
from server.fairness.arbiter import Arbiter
from server.fairness.kv_blocks.allocations import Allocation
from server.fairness.kv_blocks.preemption import preemption_order


class TenantScheduler(AsyncScheduler):
    """`AsyncScheduler` with a fair queue, KV budgets and a rotation of LoRA slots.

    Requests carry their tenant and its share as `extra_args["loragate"]` (`server.fairness.shares.stamp`); a request
    without it is the operator's. Option: `additional_config["loragate"]["lora_slot_wait_s"]`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.arbiter = Arbiter(capacity(self), engine=self, lora_slots=lora_slots(self.vllm_config))
        self._loops = LoopWatch(self.vllm_config)
        self._counting = BlockCounting(self.kv_cache_manager, self.arbiter, self.full_blocks)
        self.waiting = TenantQueue(self.arbiter, self._loops.watches, self._counting.count_starts)
        # A copy, because the prefill cap of each step is written into it.
        self.scheduler_config: Any = copy.copy(self.vllm_config.scheduler_config)
        # On a CPU vLLM schedules synchronously, and AsyncScheduler's part would be wasted work.
        self._kind: Any = AsyncScheduler if self.scheduler_config.async_scheduling else Scheduler
        self._checked: set[str] = set()  # requests that may end for a reason of ours
        self._update = self._kind._update_request_with_output.__get__(self)
        self._update_request_with_output = self._update
        self._configured_cap_tokens = self.scheduler_config.long_prefill_token_threshold
        self._prompt_rows = PromptLogprobRows(self, self.vllm_config)
        self._step_rows = StepRows(self, self.arbiter)
        self._groups = len(self.kv_cache_config.kv_cache_groups)
        take_prepared(self.structured_output_manager)
        install()
        answer_pings()

    # vLLM's own methods

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        """One step, between the arbiter's `begin_step` and `end_step`."""
        beat()
        self._prompt_rows.begin_step()
        paused = self._pause_state != PauseState.UNPAUSED
        if not paused:
            self.arbiter.begin_step()
            self._cap_prefills()
            self._step_rows.begin_step()
        self._order_victims()
        self._counting.begin_step()
        output = super().schedule(throttle_prefills)
        self._counting.end_step(output)
        if not paused:
            self.arbiter.end_step(self.max_num_scheduled_tokens - output.total_num_scheduled_tokens)
        return output

    def _update_after_schedule(self, scheduler_output: SchedulerOutput) -> None:
        self._kind._update_after_schedule(self, scheduler_output)

    def update_from_output(self, scheduler_output: SchedulerOutput, model_runner_output: Any) -> Any:
        """vLLM's own; the time of the step is noted."""
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        self._step_rows.note_step(scheduler_output)
        return outputs

    def add_request(self, request: Request) -> None:
        """Add a request, whose tokens are checked if it is watched for loops or has a grammar.

        NOTE: without such a request vLLM calls its own method for each token: one more is seen in `benchmarks front`.
        """
        super().add_request(request)
        self._prompt_rows.add(request)
        if getattr(request, "loragate_is_watched", False) or request.structured_output_request is not None:
            self._checked.add(request.request_id)
            self._update_request_with_output = self._update_and_check

    def _update_and_check(
        self, request: Request, new_token_ids: list[int], is_stale: bool = False
    ) -> tuple[list[int], bool]:
        """Stands for vLLM's `_update_request_with_output`."""
        new_token_ids, stopped = self._update(request, new_token_ids, is_stale)
        if request.loragate_is_watched and not stopped:
            stopped = self._loops.ends(request, new_token_ids)
        if request.structured_output_request is not None and has_ended(request):
            return [], True
        return new_token_ids, stopped

    def _free_request_blocks(self, request: Request) -> None:
        self.arbiter.stop(request.request_id)
        super()._free_request_blocks(request)

    def _free_blocks(self, request: Request) -> None:
        super()._free_blocks(request)
        self._prompt_rows.remove(request.request_id)
        request.loragate_entry.item = None  # no cycle: the request is freed without the garbage collector
        if request.request_id in self._checked:
            self._checked.remove(request.request_id)
            if not self._checked:
                self._update_request_with_output = self._update

    # `server.fairness.interfaces.EngineInterface`

    def free_blocks(self) -> int:
        """Blocks that no request holds; cached blocks among them can be taken."""
        return int(self.kv_cache_manager.block_pool.get_num_free_blocks())

    def free_slots(self) -> int:
        """Requests that vLLM would still move into RUNNING."""
        return int(self.max_num_active_reqs - len(self.running) - self.num_waiting_for_streaming_input)

    def full_blocks(self, item: Request) -> int:
        """Blocks of the whole present sequence."""
        return -int(-item.num_tokens // self.block_size) * self._groups

    def new_blocks(self, item: Request) -> int:
        """`full_blocks` less the blocks of its prefix that running requests hold."""
        hits, _, _ = self.kv_cache_manager.get_computed_blocks(item)
        held = sum(1 for group in hits.blocks for block in group if block.ref_cnt > 0 and not block.is_null)
        return self.full_blocks(item) - held

    def growth(self, allocation: Allocation) -> int:
        """Blocks that the request still lacks for its prompt, or for its next token."""
        request = self.requests[allocation.request_id]
        if request in self._inflight_prefills:
            return allocation.pending_blocks
        last = min(request.num_prompt_tokens + request.max_tokens - 1, self.max_model_len)
        tokens = min(request.num_computed_tokens + 1 + self.num_spec_tokens + self.num_lookahead_tokens, last)
        return max(0, -int(-tokens // self.block_size) * self._groups - len(allocation.block_ids))

    def is_ready(self, item: Request) -> bool:
        """Whether vLLM would start the request, and not skip it for a reason of its own."""
        if item.num_stale_output_tokens and not item.drop_stale_output:
            return False
        if item.status == RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR:
            structured = item.structured_output_request
            return structured is not None and structured.grammar is not None
        return item.status in (RequestStatus.WAITING, RequestStatus.PREEMPTED)

    def generated_tokens(self, item: Request) -> int:
        """From the last prompt token on, each computed position yields a token."""
        return int(item.num_computed_tokens - item.num_prompt_tokens + 1)

    def preempt(self, request_id: str) -> None:
        """vLLM's own preemption: the blocks are freed and the request waits with all its tokens.

        The arbiter does not resume it in the same step, as vLLM itself never does, so the workers see nothing
        unusual.
        """
        request = self.requests[request_id]
        self.running.remove(request)
        self._preempt_request(request, time.monotonic(), drop_stale_output=self.requires_kv_delivery)

    def _cap_prefills(self) -> None:
        """Limit prompt tokens per request, so that one tenant's long prompt does not take the whole step."""
        if not self._inflight_prefills and not self.arbiter.has_room:
            self.scheduler_config.long_prefill_token_threshold = self._configured_cap_tokens
            return
        prefilling: dict[str, list[int]] = {}
        for request in self._inflight_prefills:
            demand = request.num_tokens - request.num_computed_tokens
            prefilling.setdefault(request.loragate_entry.tenant, []).append(demand)
        decoding = len(self.running) - len(self._inflight_prefills)
        cap_tokens = self.arbiter.prefill_cap(
            self.max_num_scheduled_tokens - decoding, prefilling, lambda item: int(item.num_tokens)
        )
        caps = (cap_tokens, self._configured_cap_tokens, self.arbiter.background.prompt_cap_tokens)
        self.scheduler_config.long_prefill_token_threshold = min(filter(None, caps), default=0)

    def _order_victims(self) -> None:
        """Sort `running` in order of preemption if blocks may run out: vLLM preempts from its end."""
        accounting = self.arbiter.accounting
        free = self.free_blocks()
        if free >= len(self.running) * self._groups + accounting.pending_blocks:
            return
        allocations = (accounting.allocation(request.request_id) for request in self.running)
        if free >= sum(self.growth(allocation) for allocation in allocations if allocation is not None):
            return
        rank = {request_id: i for i, request_id in enumerate(preemption_order(accounting))}
        self.running.sort(key=lambda request: -rank[request.request_id])

    def report(self) -> dict[str, Any]:
        """Counters and present state; see `server.engine.scheduling.scheduler_report`."""
        return report(self.arbiter)
