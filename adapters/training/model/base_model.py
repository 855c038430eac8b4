"""The frozen base in memory: its device, precision, 4-bit form, attention and gradient checkpointing.

Uses transformers' ``from_pretrained`` and bitsandbytes 0.50 (NF4 on CPU and GPU).
"""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from peft import prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from adapters.training.config import TrainingConfig
from adapters.training.errors import HardwareError

_CPU_BF16_FLAGS = ("avx512_bf16", "amx_bf16")


def device_of() -> str:
    """The device of this process, ``cuda:0``, ``cpu`` …, as accelerate assigns it."""
    return str(PartialState().device)


def is_sharded() -> bool:
    """Whether each process has only a part of every matrix, so that the model cannot generate."""
    return PartialState().distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def resolve_auto(config: TrainingConfig, device: str) -> TrainingConfig:
    """``config`` with every ``auto`` replaced by the choice for ``device``, so that checkpoints record it.

    Raises:
        HardwareError: it needs hardware or a package that this machine does not have.
    """
    gpu = device.startswith("cuda")
    processes = PartialState().num_processes
    if config.batch_samples % (config.micro_batch_samples * processes):
        raise HardwareError(
            f"{processes} processes with {config.micro_batch_samples} samples each cannot make up a step of "
            f"{config.batch_samples} samples. Give --batch-samples a multiple of "
            f"{config.micro_batch_samples * processes}."
        )
    if config.optimizer != "adamw" and not gpu:
        raise HardwareError(
            f"The optimizer {config.optimizer} needs a CUDA GPU. On a CPU give --optimizer adamw; LoRA's optimizer "
            "state is small."
        )
    if config.attention == "flash_attention_2" and not (gpu and find_spec("flash_attn")):
        raise HardwareError(
            "The attention flash_attention_2 needs a CUDA GPU and the package flash-attn. Give --attention sdpa, "
            "which has its own flash kernel."
        )
    if config.preferences and (config.packing in ("on", "prefix") or is_sharded()):
        raise HardwareError(
            "Preferences are trained without packing and with the whole model in every process."
        )
    packing = (
        config.packing if config.packing != "auto" else ("on" if gpu and not config.preferences else "off")
    )
    attention = "sdpa" if config.attention == "auto" else config.attention
    if packing == "on" and attention == "eager":
        raise HardwareError("Packing is exact only with sdpa and flash_attention_2. Give --packing off.")
    if packing == "prefix" and attention != "sdpa":
        raise HardwareError(f"--packing prefix needs --attention sdpa; it is {attention}.")
    dtype = config.dtype if config.dtype != "auto" else _native_dtype(gpu, config.base)
    return replace(config, packing=packing, attention=attention, dtype=dtype)


def load_base(config: TrainingConfig, device: str) -> Any:
    """The base, frozen and ready for an adapter. ``config`` comes from ``resolve_auto``."""
    dtype: Any = {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype]
    transformers_logging.disable_progress_bar()
    sharded = is_sharded()  # NOTE: FSDP and DeepSpeed distribute the weights themselves, shard by shard.
    options: dict[str, Any] = {
        "dtype": dtype,
        "local_files_only": True,
        "attn_implementation": config.attention,
    }
    if config.qlora:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_quant_storage=dtype if sharded else torch.uint8,
        )
        options["device_map"] = {"": device} if not sharded else None
    model = AutoModelForCausalLM.from_pretrained(config.base, **options)
    if config.qlora:
        return _prepare_4bit(model, config)
    if not sharded:
        model = model.to(device)
    if config.gradient_checkpointing:
        # The embeddings are frozen: without this, no input of a recomputed layer requires a gradient.
        model.enable_input_require_grads()
    return model


def _prepare_4bit(model: Any, config: TrainingConfig) -> Any:
    """Freeze a 4-bit base; norms and the head keep the compute precision that they were loaded in."""
    for module in model.modules():
        # NOTE: on a CPU with AVX512-BF16, bitsandbytes 0.50 repacks a layer for inference at the first forward pass
        # in evaluation mode, and never back. Its product then has no gradient: after one evaluation the adapters
        # in the layers below it would silently stop training.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    if config.dtype == "float32":
        return prepare_model_for_kbit_training(
            model,
            use_gradient_checkpointing=config.gradient_checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
        )
    for parameter in model.parameters():
        parameter.requires_grad = False
    if config.gradient_checkpointing:
        model.enable_input_require_grads()
    return model


def _native_dtype(gpu: bool, base: Path) -> Literal["float32", "bfloat16"]:
    """bfloat16 if the hardware multiplies in it and the base is stored in it, so that no precision is lost.

    NOTE: CPUs without AMX or AVX512-BF16 emulate bfloat16 at less than half of float32's speed. With them, a matrix
    product takes a quarter of float32's time.
    """
    if gpu:
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    stored = json.loads((base / "config.json").read_text(encoding="utf-8"))
    if "bfloat16" not in (stored.get("dtype"), stored.get("torch_dtype")):
        return "float32"
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else ""
    return "bfloat16" if any(flag in flags for flag in _CPU_BF16_FLAGS) else "float32"
