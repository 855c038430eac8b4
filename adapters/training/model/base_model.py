"""The frozen base in memory: its device, precision, 4-bit form, attention and checkpointing.

Leans on transformers' ``from_pretrained`` and bitsandbytes 0.50 (NF4 on CPU and GPU).
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
    """Where this process trains: ``cuda:0``, ``cpu`` …, as accelerate shares devices out."""
    return str(PartialState().device)


def settled(config: TrainingConfig, device: str) -> TrainingConfig:
    """``config`` with every ``auto`` decided for ``device``, so that a checkpoint names what was done.

    Raises:
        HardwareError: what it asks for needs hardware or a package that is not here.
    """
    gpu = device.startswith("cuda")
    processes = PartialState().num_processes
    if config.batch_samples % (config.micro_batch_samples * processes):
        raise HardwareError(
            f"{processes} processes of {config.micro_batch_samples} samples cannot make up a step of "
            f"{config.batch_samples}; give --batch-samples a multiple of "
            f"{config.micro_batch_samples * processes}."
        )
    if config.optimizer != "adamw" and not gpu:
        raise HardwareError(
            f"optimizer {config.optimizer} needs a CUDA GPU; on a CPU give --optimizer adamw (LoRA's optimizer "
            "state is small)."
        )
    if config.attention == "flash_attention_2" and not (gpu and find_spec("flash_attn")):
        raise HardwareError(
            "attention flash_attention_2 needs a CUDA GPU and the package flash-attn; give --attention sdpa, "
            "which has a flash kernel of its own."
        )
    packing = config.packing if config.packing != "auto" else ("on" if gpu else "off")
    attention = "sdpa" if config.attention == "auto" else config.attention
    if packing == "on" and attention == "eager":
        raise HardwareError("Packing is exact with sdpa and flash_attention_2 only; give --packing off.")
    dtype = config.dtype if config.dtype != "auto" else _native_dtype(gpu, config.base)
    return replace(config, packing=packing, attention=attention, dtype=dtype)


def load_base(config: TrainingConfig, device: str) -> Any:
    """The base, frozen and ready to carry an adapter. ``config`` must be ``settled``."""
    dtype: Any = {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype]
    transformers_logging.disable_progress_bar()
    # NOTE: FSDP and DeepSpeed place the weights themselves, shard by shard.
    sharded = PartialState().distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
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
        return _prepared(model, config)
    if not sharded:
        model = model.to(device)
    if config.gradient_checkpointing:
        # The embeddings are frozen: without this nothing that enters a recomputed layer asks for a gradient.
        model.enable_input_require_grads()
    return model


def _prepared(model: Any, config: TrainingConfig) -> Any:
    """Freeze a 4-bit base; norms and the head stay as they were loaded, in the compute precision."""
    for module in model.modules():
        # NOTE: on a CPU with AVX512-BF16, bitsandbytes 0.50 repacks a layer for inference at the first forward
        # in eval mode, for good, and its product has no gradient then: after one evaluation the adapters below
        # would train no more, without a word.
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
    """bfloat16 where the hardware multiplies in it and the base is kept in it, so that nothing is lost.

    NOTE: on CPUs without AMX or AVX512-BF16 bfloat16 is emulated and more than twice as slow; with it, a
    product of matrices took a quarter of float32's time.
    """
    if gpu:
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    written = json.loads((base / "config.json").read_text(encoding="utf-8"))
    if "bfloat16" not in (written.get("dtype"), written.get("torch_dtype")):
        return "float32"
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else ""
    return "bfloat16" if any(flag in flags for flag in _CPU_BF16_FLAGS) else "float32"
