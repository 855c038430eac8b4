"""Checks before the start that a training fits into the machine's memory; names the flags that help if not."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import torch
from rich.console import Console
from rich.table import Table

from adapters.artifact.shape import BaseShape
from adapters.training.config import TrainingConfig
from adapters.training.data.prepared import PreparedData
from adapters.training.errors import HardwareError
from adapters.training.model.memory_plan import (
    GIB,
    LATER_BYTES,
    MIB,
    MemoryPlan,
    largest_pass,
    plan_memory,
    remedies,
    return_freed_memory,
)

_CGROUP = Path("/sys/fs/cgroup")


def check_memory(config: TrainingConfig, data: PreparedData, device: str, console: Console) -> MemoryPlan:
    """Print the memory plan of ``config`` (from ``resolve_auto``) for ``device``.

    Raises:
        HardwareError: it does not fit and ``over_memory`` is not set; names the flags that help.
    """
    gpu = device.startswith("cuda")
    if not gpu:
        return_freed_memory()
    shape = BaseShape.from_config(config.base / "config.json")
    base = LATER_BYTES + (0 if gpu else psutil.Process().memory_info().rss)
    file_bytes = sum(path.stat().st_size for path in config.base.glob("*.safetensors"))
    largest = largest_pass(config, data.samples)
    plan = plan_memory(config, shape, largest, base=base, file_bytes=0 if gpu else file_bytes)
    available = available_bytes(device)
    console.print(f"memory plan; the largest pass has {largest.tokens} tokens")
    console.print(_table(plan, available))
    if plan.total <= available or config.over_memory:
        return plan
    smaller = remedies(config, shape, data.samples, base=base, file_bytes=0 if gpu else file_bytes, gpu=gpu)
    fitting = next((flags for flags, other in smaller if other.total <= available), None)
    if fitting:
        help_text = f"Give {fitting}, and it fits."
    else:
        help_text = (
            "No flag makes it fit. Use a smaller base or a larger machine, or lower --max-length-tokens."
        )
    raise HardwareError(
        f"The training needs {plan.total / GIB:.2f} GiB, and {available / GIB:.2f} GiB are available. {help_text} "
        "--over-memory starts it anyway."
    )


def available_bytes(device: str) -> int:
    """Bytes that this process may use on ``device``, including what it already uses on a CPU."""
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(torch.device(device))
        return int(free)
    own = psutil.Process(os.getpid()).memory_info().rss
    free = psutil.virtual_memory().available
    limit = _number(_CGROUP / "memory.max")
    used = _number(_CGROUP / "memory.current")
    if limit is not None and used is not None:
        free = min(free, limit - used)
    return int(free + own)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None  # no cgroup, or "max"


def _table(plan: MemoryPlan, available: int) -> Table:
    table = Table(box=None)
    table.add_column("for")
    table.add_column("MiB", justify="right")
    for name, value in plan.rows().items():
        table.add_row(name, f"{value / MIB:,.0f}")
    table.add_row("peak", f"{plan.total / MIB:,.0f}")
    table.add_row("available", f"{available / MIB:,.0f}")
    return table
