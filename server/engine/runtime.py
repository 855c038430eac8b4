"""One running engine: starts it, watches it, loads adapters into it, and ends it.

Leans on (vLLM 0.32): vllm.v1.engine.async_llm.AsyncLLM (from_vllm_config, add_lora, remove_lora, list_loras, errored,
shutdown), vllm.lora.request.LoRARequest, vllm.sampling_params.SamplingParams, vllm.envs.enable_envs_cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any
from uuid import uuid4

from vllm import envs
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from adapters.errors import EngineGone, LoadFailed
from adapters.models import EngineAdapter
from sampling.repetition_detector import RepetitionCount, RepetitionDetector
from server.config.settings import Settings
from server.engine.args import engine_args, frontend_args, grammar_folder
from server.engine.awq_adapters import AwqAdapters
from server.engine.base_model import model_folder, write_generation_config
from server.engine.decoding import tool_schemas
from server.engine.decoding.control_tokens import keep_as_text
from server.engine.decoding.grammars.preparation import Grammars
from server.engine.decoding.repetition_steering import RepetitionPolicy, newline_ids
from server.engine.handlers import VllmHandlers
from server.engine.process import fork_server, lora_layers
from server.engine.process.engine_processes import EngineProcesses
from server.engine.process.heartbeat import LifeSigns
from server.engine.rendering import output_collector, prompt_logprobs, prompt_turns, token_bytes
from server.engine.rendering.logprobs import check_finite
from server.engine.rendering.prompt_workers import PromptWorkers
from server.engine.scheduling import scheduler_report
from server.engine.scheduling.engine_capacity import capacity_of
from server.engine.scheduling.generation_progress import progress
from server.engine.scheduling.vllm_series import change_series
from server.fairness.shares import Capacity
from server.request.gate import Gate

PROBE_TOKENS = 4
STOP_TIMEOUT_S = 5.0
#: Folder of the reports of stalled engines, in the data folder.
REPORTS = "engine-stalls"


class Engine:
    """A running vLLM engine with its handlers; implements `adapters.residency.Loader`."""

    def __init__(
        self,
        client: AsyncLLM,
        handlers: VllmHandlers,
        runner: Executor,
        prompts: PromptWorkers,
        processes: EngineProcesses,
        grammars: Grammars,
        awq_adapters: AwqAdapters | None,
        lora_layers: frozenset[str],
    ) -> None:
        self._client = client
        self.lora_layers = lora_layers  # to which the engine applies adapters, by full path
        self.prompts = prompts
        self._runner = runner
        self._processes = processes
        self._awq_adapters = awq_adapters
        self._grammars = grammars
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
            LoadFailed: vLLM refused the adapter, or would apply a part of it only; its id must not be used again.
        """
        request = await self._request(adapter)
        try:
            loaded = await self._client.add_lora(request)
            left_out = await lora_layers.explain_left_out(self._client, adapter)
        except EngineDeadError as error:
            raise EngineGone("The engine died while it loaded the adapter.") from error
        except Exception as error:  # vLLM passes its workers' errors on as plain Exceptions
            raise LoadFailed(f"The engine refused the adapter: {_first_line(error)}") from error
        if not loaded and adapter.engine_id not in await self.loaded():
            raise LoadFailed("The engine did not load the adapter.")
        if left_out:
            raise LoadFailed(left_out)
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
                check_finite(output)
        except EngineDeadError as error:
            raise EngineGone("The engine died while it probed the adapter.") from error

    async def _request(self, adapter: EngineAdapter) -> LoRARequest:
        """The adapter as vLLM's request; its files are those of the store, or a scaled copy of them."""
        path = adapter.path
        if self._awq_adapters is not None:
            path = await asyncio.to_thread(self._awq_adapters.write, adapter.engine_id, path)
        # NOTE: never set `load_inplace`: vLLM 0.32 keeps the flag and reads the files again at every step.
        return LoRARequest(lora_name=adapter.engine_name, lora_int_id=adapter.engine_id, lora_path=str(path))

    def watch(self) -> float:
        """Seconds without a sign of life; call it several times a second."""
        return self._processes.watch()

    async def kill(self) -> None:
        """End a stalled engine and its requests; a report of what it did is saved first."""
        await self._processes.kill()

    async def stop(self) -> None:
        """End EngineCore, its workers and those for prompts and grammars; returns when they have ended."""
        self._processes.end_waits()
        await self.prompts.close()
        await self._grammars.close()
        await asyncio.get_running_loop().run_in_executor(self._runner, self._client.shutdown, STOP_TIMEOUT_S)
        self._processes.close()


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
    signs = LifeSigns()
    client = await asyncio.get_running_loop().run_in_executor(runner, _launch, arguments, signs)
    if guard := None if settings.allow_control_tokens else keep_as_text:
        guard(client.renderer)
    grammars = Grammars.of(client.vllm_config, grammar_folder(settings))
    grammars.start()
    gate.attach(
        client,
        prepared=grammars.prepared,
        progress=partial(progress, client),
        count_steered=_steered_counter(settings, client) if settings.repetition_adjustment else None,
    )
    _change_handlers(client, settings)
    handlers = await VllmHandlers.build(gate, frontend := frontend_args(settings, arguments))
    prompts = PromptWorkers(client.vllm_config, frontend, guard)
    prompts.start()
    awq = await asyncio.to_thread(AwqAdapters.of, model_folder(settings.base_model), settings.home / "scaled")
    layers = await lora_layers.lora_layers(client)
    processes = EngineProcesses(client, signs, settings.home / REPORTS)
    return Engine(client, handlers, runner, prompts, processes, grammars, awq, layers)


def _change_handlers(client: AsyncLLM, settings: Settings) -> None:
    """Replace what vLLM's handlers call in this process."""
    prompt_turns.install(client.renderer)
    for changed in (prompt_logprobs, output_collector, token_bytes):
        changed.install()
    tool_schemas.follow(settings.tool_strict_level)
    envs.enable_envs_cache()  # vLLM reads a variable for each token of each stream; EngineCore does the same itself


def _steered_counter(settings: Settings, client: AsyncLLM) -> Callable[[], RepetitionCount]:
    """Creates counters of steered answers, with the same thresholds as the engine's steering."""
    policy = RepetitionPolicy.of(settings.repetition_policy)
    new = partial(RepetitionDetector, policy.thresholds, newline_ids(client.model_config))
    return lambda: RepetitionCount(new, lambda detector: detector.closeness > policy.adjustment.start)


def _launch(arguments: Any, signs: LifeSigns) -> AsyncLLM:
    """Start EngineCore; blocks until it has loaded the model (seconds to minutes)."""
    config = arguments.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    with signs.shared():
        client = AsyncLLM.from_vllm_config(config, usage_context=UsageContext.OPENAI_API_SERVER)
    change_series(client.logger_manager)
    return client


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
