"""One running engine: starts it, watches it, loads adapters into it, and ends it.

Leans on (vLLM 0.32): vllm.v1.engine.async_llm.AsyncLLM (from_vllm_config, add_lora, remove_lora, list_loras, errored,
shutdown), vllm.lora.request.LoRARequest, vllm.sampling_params.SamplingParams.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any
from uuid import uuid4

from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from adapters.errors import EngineGone, LoadFailed, ProbeFailed
from adapters.models import EngineAdapter
from sampling.repetition import Detector, LoopCount
from server.config.settings import Settings
from server.engine.args import engine_args, frontend_args
from server.engine.awq_adapters import AwqAdapters
from server.engine.base_model import model_folder, write_generation_config
from server.engine.decoding.repetition import RepetitionPolicy, newline_ids
from server.engine.handlers import VllmHandlers
from server.engine.process import fork_server
from server.engine.progress import progress
from server.engine.scheduling import scheduler_report
from server.engine.scheduling.scheduler_report import capacity_of
from server.fairness.shares import Capacity
from server.request.gate import Gate

PROBE_TOKENS = 4
STOP_TIMEOUT_S = 5.0


class Engine:
    """A running vLLM engine with its handlers; implements `adapters.residency.Loader`."""

    def __init__(
        self,
        client: AsyncLLM,
        handlers: VllmHandlers,
        runner: Executor,
        awq_adapters: AwqAdapters | None = None,
    ) -> None:
        self._client = client
        self._runner = runner
        self._awq_adapters = awq_adapters
        self.handlers = handlers

    @property
    def errored(self) -> bool:
        """Whether EngineCore or one of its workers has died; this engine cannot recover."""
        return bool(self._client.errored)

    @property
    def capacity(self) -> Capacity:
        """The KV blocks and sequence slots that requests can use."""
        return capacity_of(self._client)

    @property
    def max_model_len(self) -> int:
        """Largest length of prompt plus answer, in tokens."""
        return int(self._client.model_config.max_model_len)

    async def load(self, adapter: EngineAdapter) -> None:
        """Load an adapter.

        Raises:
            EngineGone: the engine has died; the adapter itself may be valid.
            LoadFailed: vLLM refused the adapter; its id must not be used again.
        """
        request = await self._request(adapter)
        try:
            loaded = await self._client.add_lora(request)
        except EngineDeadError as error:
            raise EngineGone("The engine died while it loaded the adapter.") from error
        except Exception as error:  # vLLM passes its workers' errors on as plain Exceptions
            raise LoadFailed(f"The engine refused the adapter: {_first_line(error)}") from error
        if not loaded and adapter.engine_id not in await self.loaded():
            raise LoadFailed("The engine did not load the adapter.")
        self.handlers.publish(adapter, request)

    async def unload(self, engine_id: int) -> None:
        """Remove an adapter from the engine; an unknown id has no effect. Raises: EngineGone."""
        self.handlers.withdraw(engine_id)
        try:
            await self._client.remove_lora(engine_id)
        except EngineDeadError as error:
            raise EngineGone("The engine died while it unloaded an adapter.") from error
        if self._awq_adapters is not None:
            await asyncio.to_thread(self._awq_adapters.remove, engine_id)

    async def loaded(self) -> frozenset[int]:
        """Ids of the adapters that the engine has loaded. Raises: EngineGone."""
        try:
            return frozenset(await self._client.list_loras())
        except EngineDeadError as error:
            raise EngineGone("The engine died while it listed its adapters.") from error

    async def scheduler_report(self) -> dict[str, Any]:
        """The scheduler's counters (`server.engine.scheduling.scheduler_report`). Raises: EngineGone."""
        try:
            return await scheduler_report.read(self._client)
        except EngineDeadError as error:
            raise EngineGone("The engine died before its scheduler reported.") from error
        except Exception as error:  # vLLM passes its processes' errors on as plain Exceptions
            raise EngineGone(f"The scheduler did not report: {_first_line(error)}") from error

    async def probe(self, adapter: EngineAdapter) -> None:
        """Check that one short greedy generation ends with finite log-probabilities.

        No tenant requests this generation, so it bypasses the gate: it needs no admission and is not counted.

        Raises:
            EngineGone: the engine has died.
            ProbeFailed: the answer is empty or not finite.
        """
        params = SamplingParams(
            temperature=0.0, max_tokens=PROBE_TOKENS, logprobs=1, output_kind=RequestOutputKind.FINAL_ONLY
        )
        prompt: Any = {"prompt_token_ids": [0, 1, 2, 3], "cache_salt": uuid4().hex}
        try:
            async for output in self._client.generate(
                prompt, params, f"probe-{uuid4().hex}", lora_request=await self._request(adapter)
            ):
                _check_finite(output)
        except EngineDeadError as error:
            raise EngineGone("The engine died while it probed the adapter.") from error

    async def _request(self, adapter: EngineAdapter) -> LoRARequest:
        """The adapter as vLLM's request; its files are those of the store, or a scaled copy of them."""
        path = adapter.path
        if self._awq_adapters is not None:
            path = await asyncio.to_thread(self._awq_adapters.write, adapter.engine_id, path)
        # NOTE: never set `load_inplace`: vLLM 0.32 keeps the flag and reads the files again at every step.
        return LoRARequest(lora_name=adapter.engine_name, lora_int_id=adapter.engine_id, lora_path=str(path))

    async def stop(self) -> None:
        """End EngineCore and its workers; returns when they have ended."""
        await asyncio.get_running_loop().run_in_executor(self._runner, self._client.shutdown, STOP_TIMEOUT_S)


async def start(settings: Settings, gate: Gate, runner: Executor) -> Engine:
    """Start an engine and attach it to the gate.

    Args:
        settings: what to serve.
        gate: the engine client that the handlers use.
        runner: the single thread that starts engines. It must live as long as the server, because the kernel ends
            an engine together with the thread that started it (see `server.engine.process.parent_death`).

    Raises:
        Exception: any error of vLLM when a model cannot be loaded.
    """
    arguments = engine_args(settings, await asyncio.to_thread(write_generation_config, settings))
    if fork_server.is_running():
        fork_server.install()
        if arguments.pipeline_parallel_size == 1 and arguments.distributed_executor_backend is None:
            arguments.distributed_executor_backend = fork_server.EXECUTOR
    loop = asyncio.get_running_loop()
    client = await loop.run_in_executor(runner, _launch, arguments)
    gate.attach(
        client,
        progress=partial(progress, client),
        count_steered=_steered_counter(settings, client) if settings.repetition_adjustment else None,
    )
    handlers = await VllmHandlers.build(gate, frontend_args(settings, arguments))
    awq_adapters = await asyncio.to_thread(
        AwqAdapters.of, model_folder(settings.base_model), settings.home / "scaled"
    )
    return Engine(client, handlers, runner, awq_adapters)


def _steered_counter(settings: Settings, client: AsyncLLM) -> Callable[[], LoopCount]:
    """Creates counters of steered answers, with the same thresholds as the engine's steering."""
    policy = RepetitionPolicy.of(settings.repetition_policy)
    newlines = newline_ids(client.model_config)
    start = policy.adjustment.start
    return lambda: LoopCount(lambda: Detector(policy.thresholds, newlines), lambda d: d.closeness > start)


def _launch(arguments: Any) -> AsyncLLM:
    """Start EngineCore; blocks until it has loaded the model (seconds to minutes)."""
    config = arguments.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    return AsyncLLM.from_vllm_config(config, usage_context=UsageContext.OPENAI_API_SERVER)


def _check_finite(output: Any) -> None:
    sequence = output.outputs[0]
    chosen = [step[token].logprob for step, token in zip(sequence.logprobs, sequence.token_ids, strict=True)]
    if not sequence.token_ids or not all(math.isfinite(value) for value in chosen):
        raise ProbeFailed("The adapter's answer to the probe is empty or not finite.")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
