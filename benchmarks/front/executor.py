"""A vLLM executor without a model: a step lasts `STEP_S`, and its tokens are invented.

EngineCore, its scheduler and its messages are real, so what is left is what a server spends beside its model.
vLLM gets the class by its dotted name (`EXECUTOR`) as `distributed_executor_backend`.

Leans on (vLLM 0.32): v1.executor.abstract.Executor, v1.kv_cache_interface.FullAttentionSpec,
v1.core.sched.output.SchedulerOutput, v1.outputs (ModelRunnerOutput, LogprobsLists).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.executor.abstract import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import LogprobsLists, ModelRunnerOutput
from vllm.v1.worker.worker_base import CompilationTimes

EXECUTOR = "benchmarks.front.executor.ModelFreeExecutor"
"""A dotted name, because vLLM resolves it in the EngineCore process."""

STEP_S = 0.015
"""A step of a model of 7 billion parameters with some hundred sequences on a large GPU."""

_LAYOUT = "LBNHC"
_PROJECTIONS = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)


class ModelFreeExecutor(Executor):
    """Answers every step with one token for each sequence whose prompt is computed.

    As on a GPU whose next step is prepared while one runs, a step begins when the last one has ended, if it is there
    by then. Adapters are accepted by their ids and never read.
    """

    step_s = STEP_S

    def _init_executor(self) -> None:
        self._words = _words(Path(self.model_config.model))
        self._adapters: set[int] = set()
        self._prompts: dict[str, int] = {}
        self._made: dict[str, int] = {}
        self._logprobs: dict[str, int] = {}
        self._step: SchedulerOutput | None = None
        self._steps = 0
        self._ends_at = 0.0

    def collective_rpc(
        self,
        method: str | Callable[..., Any],
        timeout: float | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        non_block: bool = False,
    ) -> Any:
        """The one worker's answer; a method that is not listed does nothing."""
        answers: dict[Any, Callable[..., Any]] = {
            "get_kv_cache_spec": self._kv_cache_spec,
            "get_supported_kv_cache_layouts": lambda: [_LAYOUT],
            "determine_available_memory": lambda: int(self.cache_config.kv_cache_memory_bytes or 1 << 30),
            "compile_or_warm_up_model": lambda: CompilationTimes(language_model=0.0, encoder=0.0),
            "set_kv_cache_layout": self._set_layout,
            "get_supported_tasks": lambda: ("generate",),
            "add_lora": self._add_lora,
            "remove_lora": self._remove_lora,
            "pin_lora": lambda number: number in self._adapters,
            "list_loras": lambda: set(self._adapters),
            "loragate_lora_layers": self._lora_layers,
            "loragate_applied_layers": lambda _: self._lora_layers(),
        }
        run = answers.get(method)
        answer = [None if run is None else run(*args, **(kwargs or {}))]
        return _done(answer) if non_block else answer

    def execute_model(self, scheduler_output: SchedulerOutput, non_block: bool = False) -> Any:
        """Begin a step."""
        self._step = scheduler_output
        self._ends_at = max(time.monotonic(), self._ends_at) + self.step_s
        for request in scheduler_output.scheduled_new_reqs:
            params = request.sampling_params
            self._prompts[request.req_id] = len(request.prompt_token_ids or ())
            self._made[request.req_id] = 0
            self._logprobs[request.req_id] = (params.logprobs or 0) if params is not None else 0
        for request_id in scheduler_output.finished_req_ids:
            for record in (self._prompts, self._made, self._logprobs):
                record.pop(request_id, None)
        return _done(None) if non_block else None

    def sample_tokens(self, grammar_output: Any, non_block: bool = False) -> Any:
        """End the step, when its time has passed."""
        time.sleep(max(0.0, self._ends_at - time.monotonic()))
        assert self._step is not None
        output = self._sampled(self._step)
        return _done(output) if non_block else output

    def _sampled(self, step: SchedulerOutput) -> ModelRunnerOutput:
        computed = {request.req_id: request.num_computed_tokens for request in step.scheduled_new_reqs}
        cached = step.scheduled_cached_reqs
        computed.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        self._steps += 1
        sampled: list[list[int]] = []
        words, made = self._words, self._made
        for place, (request_id, tokens) in enumerate(step.num_scheduled_tokens.items()):
            if computed[request_id] + tokens < self._prompts[request_id] + made[request_id]:
                sampled.append([])
                continue
            made[request_id] += 1
            sampled.append([words[(self._steps + 7 * place) % len(words)]])
        ids = list(step.num_scheduled_tokens)
        return ModelRunnerOutput(
            req_ids=ids,
            req_id_to_index={request_id: place for place, request_id in enumerate(ids)},
            sampled_token_ids=sampled,
            logprobs=self._log_probabilities(ids, sampled),
        )

    def _log_probabilities(self, ids: list[str], sampled: list[list[int]]) -> LogprobsLists | None:
        width = max((self._logprobs[request_id] for request_id in ids), default=0)
        if not width:
            return None
        rows = [[tokens[0] if tokens else 0, *self._words[:width]] for tokens in sampled]
        values = np.broadcast_to(-np.arange(1, width + 2, dtype=np.float32), (len(rows), width + 1))
        return LogprobsLists(np.array(rows), values, np.ones(len(rows), dtype=np.int64))

    def _kv_cache_spec(self) -> dict[str, FullAttentionSpec]:
        config = self.model_config
        spec = FullAttentionSpec(
            block_size=self.cache_config.block_size,
            num_kv_heads=config.get_num_kv_heads(self.parallel_config),
            head_size=config.get_head_size(),
            dtype=config.dtype,
        )
        return {f"layer.{i}": spec for i in range(config.get_num_layers(self.parallel_config))}

    def _add_lora(self, request: Any) -> bool:
        self._adapters.add(request.lora_int_id)
        return True

    def _remove_lora(self, number: int) -> bool:
        self._adapters.discard(number)
        return True

    def _lora_layers(self) -> list[str]:
        """As a worker with Qwen's layers names them (`server.engine.process.lora_layers`)."""
        layers = range(self.model_config.get_num_layers(self.parallel_config))
        return [f"model.layers.{i}.{projection}" for i in layers for projection in _PROJECTIONS]

    def _set_layout(self, name: str) -> None:
        self.cache_config.kv_cache_layout = name

    def check_health(self) -> None:
        """Always healthy."""

    @classmethod
    def supports_async_scheduling(cls) -> bool:
        """As the executors of GPUs."""
        return True


def _done(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future


def _words(model: Path) -> list[int]:
    """Ids of tokens that are a word, with or without a space: none ends an answer or is half a character."""
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    return [
        number for token, number in vocabulary.items() if token.lstrip("Ġ").isascii() and token[-1].isalpha()
    ]
