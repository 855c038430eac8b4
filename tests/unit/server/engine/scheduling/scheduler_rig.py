"""vLLM's scheduler with no model behind it: requests go in, a made-up model answers, steps are recorded."""

from __future__ import annotations

import json
import tempfile
from collections import deque
from functools import cache
from pathlib import Path
from typing import Any

import torch
from vllm.config import (
    CacheConfig,
    DeviceConfig,
    LoRAConfig,
    ModelConfig,
    ParallelConfig,
    SchedulerConfig,
    VllmConfig,
)
from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from adapters.tenant_settings import TenantSettings
from server.engine.scheduling.scheduler import TenantScheduler
from server.fairness.shares import stamp

BLOCK_SIZE = 4


@cache
def model_config() -> ModelConfig:
    folder = Path(tempfile.mkdtemp(prefix="rig-"))
    shape = {
        "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1,
        "num_hidden_layers": 1, "vocab_size": 1000, "max_position_embeddings": 4096,
    }  # fmt: skip
    config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "torch_dtype": "float32", **shape}
    (folder / "config.json").write_text(json.dumps(config))
    return ModelConfig(
        model=str(folder), skip_tokenizer_init=True, dtype="float32", max_model_len=4096, seed=0
    )


class Rig:
    """One scheduler and its made-up model.

    Args:
        depth: steps that are scheduled before the output of the first one is known: 2 in vLLM's asynchronous
            engine, 1 in the synchronous one (on a CPU).
        step_s: what a step takes on the clock that the arbiter sees.
        row_s: what each of its sequences adds to that.
    """

    def __init__(
        self,
        *,
        blocks: int = 100,
        max_num_seqs: int = 8,
        max_tokens_per_step: int = 256,
        max_loras: int | None = None,
        lora_slot_wait_s: float = 2.0,
        depth: int = 2,
        step_s: float = 0.02,
        row_s: float = 0.0,
        scheduler_cls: type[AsyncScheduler] = TenantScheduler,
    ) -> None:
        self.depth = depth
        self.step_s = step_s
        self.row_s = row_s
        self.now_s = 0.0
        self.started_s: dict[str, float] = {}
        self.in_flight: deque[tuple[SchedulerOutput, dict[str, list[int]]]] = deque()
        self.steps: list[SchedulerOutput] = []
        self.tokens: dict[str, list[int]] = {}
        self.finished: list[str] = []
        self.requests: dict[str, Request] = {}
        init_none_hash(sha256)
        self.hasher = get_request_block_hasher(BLOCK_SIZE, sha256)
        scheduler_config = SchedulerConfig(
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_tokens_per_step,
            max_model_len=4096,
            is_encoder_decoder=False,
            enable_chunked_prefill=True,
        )
        cache_config = CacheConfig(block_size=BLOCK_SIZE, enable_prefix_caching=True)
        cache_config.num_gpu_blocks = blocks + 1
        config = VllmConfig(
            model_config=model_config(),
            cache_config=cache_config,
            scheduler_config=scheduler_config,
            parallel_config=ParallelConfig(),
            device_config=DeviceConfig("cpu"),
            lora_config=LoRAConfig(max_lora_rank=8, max_loras=max_loras) if max_loras else None,
            additional_config={"loragate": {"lora_slot_wait_s": lora_slot_wait_s}},
        )
        config.scheduler_config.async_scheduling = depth > 1  # vLLM turns it off on a CPU
        spec = FullAttentionSpec(block_size=BLOCK_SIZE, num_kv_heads=1, head_size=4, dtype=torch.float32)
        kv_cache_config = KVCacheConfig(
            num_blocks=blocks + 1, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
        )
        self.scheduler: Any = scheduler_cls(
            vllm_config=config,
            kv_cache_config=kv_cache_config,
            structured_output_manager=StructuredOutputManager(config),
            block_size=BLOCK_SIZE,
            log_stats=True,
        )
        if scheduler_cls is TenantScheduler:
            self.scheduler.arbiter._clock = self.scheduler.arbiter.accounting._clock = lambda: self.now_s

    def add(
        self,
        request_id: str,
        tenant: str | None = "acme",
        policy: TenantSettings | None = None,
        *,
        prompt: int | list[int] = 8,
        generate: int = 8,
        adapter: int = 0,
        prompt_logprobs: int | None = None,
        background: bool = False,
    ) -> Request:
        """Add a request; an integer prompt means that many tokens that no other request has."""
        if isinstance(prompt, int):
            prompt = [hash((request_id, i)) % 900 + 10 for i in range(prompt)]
        policy = policy or TenantSettings()
        extra_args = None if tenant is None else {"loragate": stamp(tenant, policy, background=background)}
        params = SamplingParams(
            max_tokens=generate, ignore_eos=True, extra_args=extra_args, prompt_logprobs=prompt_logprobs
        )
        request = Request(
            request_id=request_id,
            prompt_token_ids=prompt,
            sampling_params=params,
            pooling_params=None,
            lora_request=LoRARequest(f"a{adapter}", adapter, f"/nowhere/{adapter}") if adapter else None,
            cache_salt=f"{tenant}{background}",
            block_hasher=self.hasher,
        )
        self.requests[request_id] = request
        self.tokens[request_id] = []
        self.scheduler.add_request(request)
        return request

    def abort(self, request_id: str) -> None:
        self.scheduler.finish_requests(request_id, RequestStatus.FINISHED_ABORTED)

    def step(self) -> SchedulerOutput:
        """Schedule once, and take the output of the oldest step when the pipeline is full."""
        output = self.scheduler.schedule()
        self.now_s += self.step_s
        self.steps.append(output)
        for request_id in output.num_scheduled_tokens:
            self.started_s.setdefault(request_id, self.now_s)
        self.in_flight.append((output, self._answer(output)))
        while len(self.in_flight) >= self.depth or (self.in_flight and not output.num_scheduled_tokens):
            self._take()
        return output

    def run(self, steps: int = 10_000) -> None:
        """Steps until nothing is left to do."""
        for _ in range(steps):
            if not self.scheduler.get_num_unfinished_requests():
                return
            self.step()
        raise AssertionError(f"requests are left after {steps} steps")

    def running(self) -> dict[str, int]:
        """Requests that run now, by tenant."""
        counts: dict[str, int] = {}
        for request in self.scheduler.running:
            tenant = request.loragate_entry.tenant
            counts[tenant] = counts.get(tenant, 0) + 1
        return counts

    def report(self, tenant: str) -> dict[str, Any]:
        report: dict[str, Any] = self.scheduler.report()["tenants"][tenant]
        return report

    def check_accounting(self) -> None:
        """The arbiter's blocks are the cache's blocks."""
        pool = self.scheduler.kv_cache_manager.block_pool
        held = sum(allocated.blocks for _, allocated in self.scheduler.arbiter.accounting.active())
        assert held == pool.num_gpu_blocks - 1 - pool.get_num_free_blocks()
        allocations = {
            allocation.request_id for allocation in self.scheduler.arbiter.accounting.allocations()
        }
        assert allocations == {request.request_id for request in self.scheduler.running}

    def _answer(self, output: SchedulerOutput) -> dict[str, list[int]]:
        """The token that follows each computed sequence: a function of its position only."""
        answer = {}
        for request_id in output.num_scheduled_tokens:
            request = self.requests[request_id]
            done = not request.is_prefill_chunk
            answer[request_id] = [request.num_computed_tokens % 7 + 1] if done else []
        return answer

    def _take(self) -> None:
        output, answer = self.in_flight.popleft()
        self.now_s += self.row_s * len(answer)
        ids = list(answer)
        model_output = ModelRunnerOutput(
            req_ids=ids,
            req_id_to_index={request_id: i for i, request_id in enumerate(ids)},
            sampled_token_ids=[answer[request_id] for request_id in ids],
        )
        for batch in self.scheduler.update_from_output(output, model_output).values():
            for item in batch.outputs:
                self.tokens[item.request_id] += item.new_token_ids
                if item.finish_reason is not None:
                    self.finished.append(item.request_id)
