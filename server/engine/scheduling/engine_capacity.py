"""What an engine has to share out: KV blocks, running sequences, LoRA slots.

Leans on (vLLM 0.32): Scheduler (`kv_cache_manager.block_pool`, `block_size`, `max_num_active_reqs`), VllmConfig;
AsyncLLM.vllm_config.
"""

from __future__ import annotations

from typing import Any, Final

from vllm.config import VllmConfig
from vllm.v1.engine.async_llm import AsyncLLM

from server.fairness.lora_slots import LoraSlots
from server.fairness.shares import STAMP_KEY, Capacity

_DEFAULT_LORA_SLOT_WAIT_S: Final = 2.0


def capacity(scheduler: Any) -> Capacity:
    """KV blocks and running sequences."""
    return Capacity(
        kv_blocks=scheduler.kv_cache_manager.block_pool.num_gpu_blocks - 1,  # block 0 is vLLM's null block
        block_size_tokens=scheduler.block_size,
        max_num_seqs=scheduler.max_num_active_reqs,
    )


def capacity_of(engine: AsyncLLM) -> Capacity:
    """The KV blocks and sequence slots of a running engine that requests can use."""
    config = engine.vllm_config
    return Capacity(
        kv_blocks=max(1, int(config.cache_config.num_gpu_blocks or 0) - 1),  # vLLM keeps one null block
        block_size_tokens=int(config.cache_config.block_size),
        max_num_seqs=int(config.scheduler_config.max_num_seqs),
    )


def lora_slots(config: VllmConfig) -> LoraSlots | None:
    """LoRA slots, which rotate after `additional_config["loragate"]["lora_slot_wait_s"]`; None without LoRA."""
    if config.lora_config is None:
        return None
    options = config.additional_config
    ours = options.get(STAMP_KEY, {}) if isinstance(options, dict) else {}
    return LoraSlots(config.lora_config.max_loras, ours.get("lora_slot_wait_s", _DEFAULT_LORA_SLOT_WAIT_S))
