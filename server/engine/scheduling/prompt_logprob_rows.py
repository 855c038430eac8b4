"""Bounds the log-probabilities of prompt tokens that one step computes.

vLLM computes them for all prompt tokens of a step at once: a row of logits as long as the vocabulary for each, in
float32. On a CPU that is seconds for 2,000 tokens of a vocabulary of 152 thousand, in which no other request gets a
token; on a GPU it is gigabytes of memory. Such prompts are computed in smaller parts here, over more steps.
Leans on (vLLM 0.32): Scheduler._reserve_prefill_lookahead, which `schedule` calls for each request with the prompt
tokens that it would compute; 0 lets a running request wait for the next step, and ends the step for waiting ones.
"""

from __future__ import annotations

from typing import Any, Final

from vllm.config import VllmConfig
from vllm.v1.request import Request, RequestStatus

from server.fairness.shares import is_background

#: Logits of prompt tokens per step on a CPU, some 30 ms of two cores; and tokens, whose prefill takes time, too.
_CPU_LOGITS, _CPU_ROWS = 2**21, 128
#: Where others' requests get a token in each step: fewer tokens, in one of so many steps.
_CPU_ROWS_BESIDE, _STEPS_BESIDE = 32, 3
#: Logits elsewhere: 1 GiB in float32, of which vLLM holds about three.
_LOGITS: Final = 2**28


class PromptLogprobRows:
    """How many prompt tokens whose log-probabilities are wanted a step computes; tenants share them equally."""

    def __init__(self, scheduler: Any, config: VllmConfig) -> None:
        vocabulary = config.model_config.get_vocab_size()
        self._is_cpu = config.device_config.device_type == "cpu"
        if self._is_cpu:
            self.per_step: int = min(_CPU_ROWS, max(1, _CPU_LOGITS // vocabulary))
        else:
            self.per_step = max(1, _LOGITS // vocabulary)
        self._step = 0  # of those beside others
        self._tenants: dict[str, str] = {}  # of each request whose prompt is not computed yet
        self._left: dict[str, int] = {}  # of each tenant, in this step
        self._scheduler = scheduler
        self._reserve = scheduler._reserve_prefill_lookahead

    def begin_step(self) -> None:
        """A new step has all rows; the background gets some only where no request wants any."""
        if self._tenants:
            tenants = set(self._tenants.values())
            tenants = {tenant for tenant in tenants if not is_background(tenant)} or tenants
            rows = self._rows_of_step()
            self._left = dict.fromkeys(tenants, max(1, rows // len(tenants)) if rows else 0)

    def _rows_of_step(self) -> int:
        if not self._is_beside_others():
            return self.per_step
        self._step += 1
        return 0 if self._step % _STEPS_BESIDE else min(self.per_step, _CPU_ROWS_BESIDE)

    def _is_beside_others(self) -> bool:
        """Whether a request of a tenant that wants none runs, on a CPU, where each row makes the step longer.

        NOTE: not beside a prompt that was preempted, as it is when LoRA slots take turns: it begins anew each time.
        """
        if not self._is_cpu or any(self._scheduler.requests[name].num_preemptions for name in self._tenants):
            return False
        wanting = set(self._tenants.values())
        tenants = {request.loragate_entry.tenant for request in self._scheduler.running}
        return any(tenant not in wanting and not is_background(tenant) for tenant in tenants)

    def add(self, request: Request) -> None:
        """Bound a request if it wants log-probabilities of its prompt.

        NOTE: vLLM calls its own method while there is no such request; see `TenantScheduler.add_request`.
        """
        if request.sampling_params is not None and request.sampling_params.prompt_logprobs is not None:
            self._tenants[request.request_id] = request.loragate_entry.tenant
            self._scheduler._reserve_prefill_lookahead = self._reserve_rows

    def remove(self, request_id: str) -> None:
        """Forget a request whose prompt is computed, or that has ended."""
        if self._tenants.pop(request_id, None) is not None and not self._tenants:
            self._scheduler._reserve_prefill_lookahead = self._reserve

    def _reserve_rows(self, request: Request, num_computed_tokens: int, num_new_tokens: int) -> int:
        """Stands for vLLM's `_reserve_prefill_lookahead`."""
        tokens: int = self._reserve(request, num_computed_tokens, num_new_tokens)
        tenant = self._tenants.get(request.request_id)
        if tenant is None:
            return tokens
        if num_computed_tokens >= request.num_prompt_tokens:
            self.remove(request.request_id)
            return tokens
        left = self._left.get(tenant, 0)
        # A waiting request starts in any case, with a token: without one, no other could start in this step.
        granted = min(tokens, max(left, 0 if request.status == RequestStatus.RUNNING else 1))
        self._left[tenant] = max(0, left - granted)
        return granted
