"""The entry point `vllm.general_plugins: loragate`: ties the engine's processes to the server, and replaces vLLM's
LoRA products on a CPU by ours.

Leans on (vLLM 0.32): `vllm.plugins.load_general_plugins` (the caller), `vllm.platforms.current_platform`,
`vllm.platforms.cpu.CpuPlatform.get_punica_wrapper`.

vLLM loads its plugins in every process that it starts, and in every program of this Python environment that uses
vLLM, so a stock `vllm serve` in the same environment also gets our products. `STOCK_ENVIRONMENT` prevents that.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from server.engine.process import heartbeat
from server.engine.process.parent_death import die_with_parent

PUNICA_WRAPPER = "server.engine.lora_cpu.wrapper.LoragatePunicaWrapperCPU"
"""A dotted name, because vLLM resolves it in a spawned worker."""

STOCK_ENVIRONMENT: Mapping[str, str] = MappingProxyType({"VLLM_PLUGINS": ""})
"""Environment variables for a vLLM that must run without our plugin.

NOTE: vLLM splits the value at commas, so the empty string is the list `[""]`, which matches no plugin;
only an *unset* variable means all plugins (`vllm.envs.VLLM_PLUGINS`, `vllm.plugins`).
"""


def _punica_wrapper(cls: type) -> str:
    """Replaces `CpuPlatform.get_punica_wrapper`."""
    return PUNICA_WRAPPER


def register() -> None:
    """Make the CPU platform use our LoRA wrapper; does nothing on any other platform.

    Idempotent, and safe in any process. Platforms that inherit from `CpuPlatform` and define their own wrapper
    keep it.
    """
    die_with_parent()
    heartbeat.attach()
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.platforms.cpu import CpuPlatform

    CpuPlatform.get_punica_wrapper = classmethod(_punica_wrapper)
