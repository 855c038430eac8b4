"""Translates our settings into vLLM's engine arguments.

Leans on (vLLM 0.32): vllm.engine.arg_utils.AsyncEngineArgs, vllm.entrypoints.launchers.cli_args.FrontendArgs,
vllm.platforms.current_platform; CpuPlatform.import_kernels, whose build for CPUs without AVX512 lacks the kernel of
4-bit weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from pathlib import Path
from typing import Any, get_args

import psutil
import torch
from pydantic import TypeAdapter, ValidationError
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import FrontendArgs
from vllm.platforms import current_platform

from sampling.errors import InvalidRepetitionPolicy
from server.config.settings import Settings
from server.engine.base_model import read_json
from server.engine.decoding.grammars.prepared_backend import FOLDER_KEY
from server.engine.decoding.repetition_steering import POLICY_KEY, PROCESSOR, RepetitionPolicy
from server.engine.decoding.tool_schemas import vllm_level
from server.engine.linears_cpu.capability import accept_awq, computes_four_bits, computes_in_bfloat16
from server.engine.process.lora_layers import EXTENSION
from server.errors import SettingsError
from server.fairness.shares import STAMP_KEY
from server.planner.cpu_kv_cache import (
    MAX_DEFAULT_CPU_KV_CACHE_BYTES,
    default_cpu_kv_bytes,
    full_cpu_batch_bytes,
)
from server.planner.errors import ModelUnplanned
from server.planner.shape import ModelShape

SCHEDULER = "server.engine.scheduling.scheduler.TenantScheduler"
"""A dotted name, because vLLM resolves it in the EngineCore process."""
CPU_WORKER = "server.engine.process.cpu_worker.BeatingCPUWorker"
"""A dotted name, because vLLM resolves it in the process that computes."""

#: Arguments that our setting of the same name gives.
_SAME = (
    "max_model_len", "gpu_memory_utilization", "kv_cache_memory_bytes", "max_num_seqs", "max_num_batched_tokens",
    "max_loras", "max_lora_rank", "quantization", "tensor_parallel_size",
)  # fmt: skip
#: Arguments that --engine-args must not set: they have their own flag, or loragate depends on its own value.
_FLAGS = {"model", "served_model_name", "max_cpu_loras", "dtype", "otlp_traces_endpoint", *_SAME}
_OURS = {
    "enable_lora", "logits_processors", "scheduler_cls", "additional_config", "scheduling_policy", "shutdown_timeout",
    "enable_log_requests", "worker_extension_cls",
}  # fmt: skip
#: Parts of the names of methods whose weights vLLM computes with `cpu_gemm_wna16` on a CPU.
_FOUR_BITS = ("awq", "gptq")


def engine_args(settings: Settings, generation_config: Path | None = None) -> AsyncEngineArgs:
    """The arguments of the engine.

    Args:
        settings: what to serve.
        generation_config: a folder whose generation_config.json replaces the model's own.

    Raises:
        SettingsError: --engine-args has an argument that vLLM does not know or that it must not set, or this CPU
            cannot compute with the model's 4-bit weights; or vLLM's build is for GPUs and there is none.
    """
    _check_platform()
    _check_passthrough(settings.engine_args)
    _check_repetition(settings.repetition_policy)
    arguments = _flag_arguments(settings) | {
        "enable_lora": True,
        "scheduler_cls": SCHEDULER,
        "worker_extension_cls": EXTENSION,
        "additional_config": {
            STAMP_KEY: {
                "lora_slot_wait_s": settings.lora_slot_wait_s,
                POLICY_KEY: settings.repetition_policy,
                FOLDER_KEY: str(grammar_folder(settings)),
            }
        },
    }
    if settings.repetition_adjustment:
        arguments["logits_processors"] = [PROCESSOR]
    if generation_config is not None:
        arguments["generation_config"] = str(generation_config)
    if current_platform.is_cpu():
        _check_quantization(settings)
        # vLLM disables compilation on a CPU as soon as LoRA is on; setting it here skips the compiler's set-up.
        arguments["enforce_eager"] = True
        arguments["worker_cls"] = CPU_WORKER
        if settings.kv_cache_memory_bytes is None:
            arguments["kv_cache_memory_bytes"] = cpu_kv_cache_bytes(settings)
    return AsyncEngineArgs(**{**arguments, **_as_configs(settings.engine_args)})


def grammar_folder(settings: Settings) -> Path:
    """Where prepared grammars wait for the engine."""
    return settings.home / "grammars"


def _flag_arguments(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in _SAME} | {
        "model": settings.base_model,
        "served_model_name": [settings.base_model_name],
        "max_cpu_loras": settings.adapters_held,
        "dtype": _dtype(settings, current_platform.is_cpu()),
        "otlp_traces_endpoint": settings.otlp_traces_endpoint or None,
    }


def frontend_args(settings: Settings, engine: AsyncEngineArgs) -> argparse.Namespace:
    """The arguments that vLLM's `init_app_state` reads: the flags of its server and of its engine."""
    frontend = FrontendArgs()
    values = {field.name: getattr(frontend, field.name) for field in dataclasses.fields(frontend)}
    values |= vars(engine)
    parser = tool_call_parser(settings)
    values |= {
        "tool_call_parser": parser,
        "enable_auto_tool_choice": parser is not None,
        "tool_strict_level": vllm_level(settings.tool_strict_level),
        "chat_template": str(settings.chat_template) if settings.chat_template else None,
        "enable_prompt_tokens_details": True,
        "exclude_tools_when_tool_choice_none": True,
    }
    return argparse.Namespace(**values)


def tool_call_parser(settings: Settings) -> str | None:
    """The name of vLLM's tool-call parser; hermes parses the format of Qwen's templates."""
    if settings.tool_call_parser != "auto":
        return None if settings.tool_call_parser == "none" else settings.tool_call_parser
    kind = str(_local_config(settings.base_model).get("model_type", ""))
    return "hermes" if "qwen" in f"{settings.base_model} {kind}".lower() else None


def cpu_kv_cache_bytes(settings: Settings) -> int:
    """Size of a KV cache for --max-num-seqs sequences of full length, within the free memory.

    NOTE: without an explicit size vLLM takes `gpu_memory_utilization` of *all* memory on a CPU, and does not
    start when less is free.
    """
    return default_cpu_kv_bytes(
        free_bytes=int(psutil.virtual_memory().available * settings.gpu_memory_utilization),
        weights_bytes=_weight_bytes(settings.base_model),
        full_batch_bytes=_full_batch_bytes(settings),
    )


def _full_batch_bytes(settings: Settings) -> int:
    """KV bytes of max_num_seqs sequences of max_model_len tokens; the default maximum when the model is unknown."""
    try:
        shape = ModelShape.from_config(_local_config(settings.base_model))
    except ModelUnplanned:
        return MAX_DEFAULT_CPU_KV_CACHE_BYTES
    return full_cpu_batch_bytes(shape, settings.max_num_seqs, settings.max_model_len or shape.max_len)


def _local_config(model: str) -> dict[str, Any]:
    """The model's config.json; empty for a hub id, which is not downloaded yet."""
    return read_json(Path(model) / "config.json")


def _weight_bytes(model: str) -> int:
    """Size of a local checkpoint; 0 for a hub id, whose size is unknown before the download."""
    return sum(file.stat().st_size for file in Path(model).glob("*.safetensors"))


def _dtype(settings: Settings, on_cpu: bool) -> str:
    """float32 on a CPU that only emulates bfloat16, and for the demo, whose answers are compared in tests.

    vLLM's kernels for quantized weights compute in 16 bits only; ours takes float32.
    """
    if settings.dtype != "auto" or not on_cpu:
        return settings.dtype
    if (method := _quantization(settings)) is not None:
        return "float32" if "awq" in method and computes_four_bits() else "auto"
    return "float32" if settings.demo or not computes_in_bfloat16() else "auto"


def _quantization(settings: Settings) -> str | None:
    """The method of the base model's weights; None: they are not quantized, or the model is not here yet."""
    quantized = _local_config(settings.base_model).get("quantization_config")
    stored = quantized.get("quant_method", "unknown") if isinstance(quantized, dict) else None
    return settings.quantization or stored


def _check_platform() -> None:
    """Refuse a machine that this build of vLLM finds no device on, which it would tell as an empty device string."""
    if current_platform.is_unspecified():
        raise SettingsError(
            "This vLLM is built for GPUs, and no GPU is visible to this process: `nvidia-smi` lists none, or "
            "CUDA_VISIBLE_DEVICES is empty. Make one visible, or install the CPU build (`make setup` without CUDA=1) "
            "to serve on the CPU."
        )


def _check_quantization(settings: Settings) -> None:
    """Refuse 4-bit weights on a CPU without a kernel: the engine would end with its first request."""
    method = _quantization(settings) or ""
    ours = "awq" in method and accept_awq()
    if not ours and any(name in method for name in _FOUR_BITS) and not torch.cpu._is_avx512_supported():
        raise SettingsError(
            f"{settings.base_model}: {method} weights need a CPU with AVX512, which this one lacks. Serve the model "
            "with its 16-bit weights or quantized by AWQ, or on a CPU with AVX512, or on a GPU."
        )


def _check_repetition(figures: dict[str, Any]) -> None:
    try:
        RepetitionPolicy.of(figures)
    except TypeError as error:
        raise SettingsError(f"--repetition-policy: {str(error).partition('() ')[2] or error}") from error
    except InvalidRepetitionPolicy as error:
        raise SettingsError(f"--repetition-policy: {error}") from error


def _check_passthrough(arguments: dict[str, Any]) -> None:
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    for name in arguments:
        if name in _FLAGS:
            raise SettingsError(f"--engine-args {name}: use --{name.replace('_', '-')} instead.")
        if name in _OURS:
            raise SettingsError(f"--engine-args {name}: loragate sets this itself; leave it out.")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)
            raise SettingsError(f"--engine-args {name}: vLLM has no such argument. Did you mean {near[0]}?")


def _as_configs(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with JSON objects converted to vLLM's config classes, as its own command line does."""
    types = {field.name: field.type for field in dataclasses.fields(AsyncEngineArgs)}
    found = dict(arguments)
    for name, value in arguments.items():
        candidates = (types[name], *get_args(types[name]))
        kinds = [kind for kind in candidates if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
        if isinstance(value, dict) and kinds:
            try:
                found[name] = TypeAdapter(kinds[0]).validate_python(value)
            except ValidationError as error:
                fault = error.errors(include_url=False)[0]
                where = ".".join([name, *map(str, fault["loc"])])
                raise SettingsError(
                    f"--engine-args {where}: {fault['msg'].removeprefix('Value error, ')}"
                ) from None
    return found
