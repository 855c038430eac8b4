"""Whether a training fits into the machine, said before it starts, with the flag that helps when it does not."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import torch
from rich.console import Console
from rich.table import Table

from adapters.artifact.shape import BaseShape
from adapters.training.config import TrainingConfig
from adapters.training.data.dataset import Prepared
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


def check_memory(config: TrainingConfig, prepared: Prepared, device: str, console: Console) -> MemoryPlan:
    """Print the memory plan of ``config`` (settled) for ``device``.

    Raises:
        HardwareError: it does not fit and ``over_memory`` is not set; names the flag that helps.
    """
    gpu = device.startswith("cuda")
    if not gpu:
        return_freed_memory()
    shape = BaseShape.from_config(config.base / "config.json")
    base = LATER_BYTES + (0 if gpu else psutil.Process().memory_info().rss)
    file_bytes = sum(path.stat().st_size for path in config.base.glob("*.safetensors"))
    largest = largest_pass(config, prepared.samples)
    plan = plan_memory(config, shape, largest, base=base, file_bytes=0 if gpu else file_bytes)
    has = room_bytes(device)
    console.print(f"memory plan; the largest pass has {largest.tokens} tokens")
    console.print(_table(plan, has))
    if plan.total <= has or config.over_memory:
        return plan
    smaller = list(
        remedies(config, shape, prepared.samples, base=base, file_bytes=0 if gpu else file_bytes, gpu=gpu)
    )
    fitting = next((flags for flags, other in smaller if other.total <= has), None)
    if fitting:
        help_text = f"Give {fitting}, and it fits."
    else:
        help_text = (
            "No flag makes it fit; take a smaller base or a larger machine, or lower --max-length-tokens."
        )
    raise HardwareError(
        f"The training takes {plan.total / GIB:.2f} GiB and there are {has / GIB:.2f} GiB. {help_text} "
        "--over-memory starts all the same."
    )


def room_bytes(device: str) -> int:
    """Bytes this process may grow to on ``device``, counting what it has on a CPU already."""
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(torch.device(device))
        return int(free)
    own = psutil.Process(os.getpid()).memory_info().rss
    room = psutil.virtual_memory().available
    limit = _number(_CGROUP / "memory.max")
    used = _number(_CGROUP / "memory.current")
    if limit is not None and used is not None:
        room = min(room, limit - used)
    return int(room + own)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None  # no cgroup, or "max"


def _table(plan: MemoryPlan, has: int) -> Table:
    table = Table(box=None)
    table.add_column("for")
    table.add_column("MiB", justify="right")
    for name, value in plan.rows().items():
        table.add_row(name, f"{value / MIB:,.0f}")
    table.add_row("peak", f"{plan.total / MIB:,.0f}")
    table.add_row("the machine has", f"{has / MIB:,.0f}")
    return table
