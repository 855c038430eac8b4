"""Explains an engine start that failed for lack of memory: what was requested, what was free, what to change."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from server.config.settings import Settings
from server.planner.advice import Change, advise, change
from server.planner.errors import PlannerError
from server.planner.models import find_shape
from server.planner.plan import Plan, PlanRequest, default_batched_tokens, gib, make_plan
from server.planner.request import main_memory, make_plan_request, this_device
from server.planner.shape import ModelShape

#: The messages of vLLM, torch and C++ for too little memory.
_MEMORY_WORDS = re.compile(
    r"out of memory|OutOfMemoryError|MemoryError|bad_alloc|can't allocate memory|Cannot allocate memory"
    r"|could not create a primitive"  # oneDNN, when it cannot allocate memory for a kernel's code
    r"|No available memory for the cache|KV cache is needed, which is larger|Available memory on node"
    r"|is less than desired GPU memory utilization|less than requested memory for kv",
    re.IGNORECASE,
)
_MAX_QUOTE_CHARS = 500
#: Shares of the free memory to plan with when a plan fits by the arithmetic but the engine ran out of memory.
_REDUCED_SHARES = (0.9, 0.75, 0.5, 0.25)


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Memory of one device before the engine starts."""

    total_bytes: int
    free_bytes: int


class OutOfMemoryReport:
    """Records the memory before each engine start, and reports afterwards whether too little memory was the cause.

    Args:
        settings: what is served.
        error_log: the file to which the engine's processes write their errors (`server.config.logs.write_config`).
        device: cuda or cpu.
        measure: reads the device's memory; returns None when it cannot.
        count_kills: the number of processes that the kernel's OOM killer has ended so far.
    """

    def __init__(
        self,
        settings: Settings,
        error_log: Path,
        *,
        device: str | None = None,
        measure: Callable[[], DeviceMemory | None] | None = None,
        count_kills: Callable[[], int] | None = None,
    ) -> None:
        self._settings = settings
        self._error_log = error_log
        self._device = device or this_device()
        self._measure = measure or (
            _gpu_memory if self._device == "cuda" else lambda: DeviceMemory(*main_memory())
        )
        self._count_kills = count_kills or kernel_kills
        self._before: DeviceMemory | None = None
        self._kills = 0

    def begin(self) -> None:
        """Record the state before an engine start."""
        self._error_log.parent.mkdir(parents=True, exist_ok=True)
        self._error_log.write_text("")
        self._before = self._measure()
        self._kills = self._count_kills()

    def explain(self) -> str | None:
        """The report, or None when nothing indicates too little memory."""
        quote = read_memory_error(self._error_log)
        killed = self._count_kills() > self._kills
        if (quote is None and not killed) or self._before is None:
            return None
        reason = quote or "The kernel killed a process of the engine because memory ran out."
        try:
            shape = find_shape(self._settings.base_model)
            # On a CPU only the free memory can be planned; on a GPU the flags are shares of the whole device.
            memory = self._before.free_bytes if self._device == "cpu" else self._before.total_bytes
            request = make_plan_request(self._settings, memory_bytes=memory, device=self._device)
            return format_report(shape, request, self._before, reason)
        except PlannerError:
            return f"The engine ran out of memory.\n  {reason}"


def format_report(shape: ModelShape, request: PlanRequest, memory: DeviceMemory, reason: str) -> str:
    """What was requested, what was free, and the smallest changes that fit."""
    plan = make_plan(shape, request)
    changes = _changes(shape, request, plan, memory)
    lines = [
        "The engine ran out of memory.",
        f"  reason   {reason}",
        f"  asked    {_flags(request, plan)}",
        f"  needs    weights {gib(plan.weights_bytes)}, LoRA slots {gib(plan.lora_slots_bytes)}, "
        f"activations and runtime about {gib(plan.activations_bytes + plan.runtime_bytes)}, "
        f"{gib(plan.kv_bytes_per_sequence)} of KV cache per sequence of {plan.max_model_len} tokens",
        f"  there is {gib(memory.free_bytes)} free of {gib(memory.total_bytes)}",
    ]
    if plan.problem:
        lines.append(f"  so       {plan.problem}")
    if changes:
        width = max(len(found.flags) for found in changes)
        lines.append("Any one of these fits:" if len(changes) > 1 else "This fits:")
        lines += [f"  {found.flags:<{width}}  {found.cost}" for found in changes]
    elif plan.fits:
        lines.append(
            "By this calculation it fits. Another process took the memory meanwhile, or the engine may use less "
            "of it than is free: check `ulimit -v` and the container's limit. These need less at the peak of a step:"
        )
        lines += [f"  {found.flags}  {found.cost}" for found in _smaller_steps(shape, request)]
    else:
        lines.append("No change of flags fits. Free some memory, or serve a smaller model.")
    return "\n".join(lines)


def _flags(request: PlanRequest, plan: Plan) -> str:
    if request.kv_cache_memory_bytes is not None:
        cache = (
            f"--kv-cache-memory-bytes {request.kv_cache_memory_bytes} ({gib(request.kv_cache_memory_bytes)})"
        )
    else:
        cache = f"--gpu-memory-utilization {request.gpu_memory_utilization:g}"
    return (
        f"{cache} --max-model-len {plan.max_model_len} --max-num-seqs {request.max_num_seqs} "
        f"--max-loras {request.max_loras} --max-lora-rank {request.max_lora_rank}"
    )


def _changes(shape: ModelShape, request: PlanRequest, plan: Plan, memory: DeviceMemory) -> tuple[Change, ...]:
    """Advice for the memory that was free; when that should have been enough, for smaller shares of it."""
    wanted = int(request.memory_bytes * request.gpu_memory_utilization)
    if request.device == "cuda" and request.kv_cache_memory_bytes is None and wanted > memory.free_bytes:
        share = int(memory.free_bytes / memory.total_bytes * 100) / 100
        lower = replace(request, gpu_memory_utilization=max(0.01, share))
        if make_plan(shape, lower).fits:
            flags = f"--gpu-memory-utilization {share:g}"
            return (Change(flags, "the memory that is free now", make_plan(shape, lower)),)
        return advise(shape, lower)
    if not plan.fits:
        return advise(shape, request)
    for part in _REDUCED_SHARES:
        changes = advise(shape, replace(request, memory_bytes=int(request.memory_bytes * part)))
        if changes:
            return changes
    return ()


def _smaller_steps(shape: ModelShape, request: PlanRequest) -> tuple[Change, ...]:
    """Changes that lower the peak of a step, for when the memory available to it is unknown."""
    tokens = max(256, (request.max_num_batched_tokens or default_batched_tokens(request)) // 2)
    seqs = max(1, request.max_num_seqs // 2)
    return (
        change(shape, request, "long prompts take more steps", max_num_batched_tokens=tokens),
        change(shape, request, "smaller batches, longer waiting", max_num_seqs=seqs),
    )


def read_memory_error(error_log: Path) -> str | None:
    """The first message about memory among the errors that the engine's processes logged."""
    try:
        lines = error_log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if not isinstance(record, dict):
            continue
        text = f"{record.get('event', '')}\n{record.get('exception', '')}"
        found = [part.strip() for part in text.splitlines() if _MEMORY_WORDS.search(part)]
        if found:
            # The last line is the exception itself; those above it are source lines of its traceback.
            return re.sub(r"^[\w.]*(Error|Exception): ", "", found[-1])[:_MAX_QUOTE_CHARS]
    return None


def kernel_kills() -> int:
    """Number of processes that the kernel's OOM killer has ended, in this container and on this machine."""
    return _counter(Path("/sys/fs/cgroup/memory.events")) + _counter(Path("/proc/vmstat"))


def _counter(path: Path) -> int:
    try:
        found = re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _gpu_memory() -> DeviceMemory | None:
    """Memory of the GPU with the least free memory, read from its driver: torch would itself take memory there."""
    command = ["nvidia-smi", "--query-gpu=memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout  # noqa: S603
        rows = [[int(part) * 1024**2 for part in line.split(",")] for line in text.splitlines() if line]
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return DeviceMemory(*min(rows, key=lambda row: row[1])) if rows else None
