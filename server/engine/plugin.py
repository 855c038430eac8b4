"""The entry point `vllm.general_plugins: loragate`: our LoRA products instead of vLLM's on a CPU.

vLLM symbols: `vllm.plugins.load_general_plugins` (the caller), `vllm.platforms.current_platform`,
`vllm.platforms.cpu.CpuPlatform.get_punica_wrapper`.

vLLM loads its plugins in every process that it starts, and in any program of this environment that uses
vLLM, so a stock `vllm serve` beside us gets our product too. To keep it stock, name no plugin of ours in
`VLLM_PLUGINS` (`STOCK_ENVIRONMENT`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from server.engine.process.parent_death import die_with_parent

PUNICA_WRAPPER = "server.engine.lora_cpu.wrapper.LoragatePunicaWrapperCPU"
"""Dotted, since vLLM resolves it in a spawned worker."""

STOCK_ENVIRONMENT: Mapping[str, str] = MappingProxyType({"VLLM_PLUGINS": ""})
"""What to add to the environment of a vLLM that must run without us.

NOTE: vLLM splits the value at commas, so the empty string is the list `[""]`, which names no plugin;
only an *unset* variable means "all of them" (`vllm.envs.VLLM_PLUGINS`, `vllm.plugins`).
"""


def _punica_wrapper(cls: type) -> str:
    """Stand in for `CpuPlatform.get_punica_wrapper`."""
    return PUNICA_WRAPPER


def register() -> None:
    """Let the CPU platform name our LoRA wrapper; do nothing on any other platform.

    Safe to call any number of times and in any process. Platforms that inherit from `CpuPlatform` with a
    wrapper of their own keep theirs.
    """
    die_with_parent()
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.platforms.cpu import CpuPlatform

    CpuPlatform.get_punica_wrapper = classmethod(_punica_wrapper)
