"""One screen for an engine that found too little memory: what was asked, what there was, what to change."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from server.config.settings import Settings
from server.planner.advice import Change, advise
from server.planner.errors import PlannerError
from server.planner.models import find_shape
from server.planner.plan import Plan, PlanRequest, default_batched_tokens, gib, make_plan
from server.planner.request import main_memory, make_plan_request, this_device
from server.planner.shape import Shape

#: How vLLM, torch and C++ say that memory is short.
_MEMORY_WORDS = re.compile(
    r"out of memory|OutOfMemoryError|MemoryError|bad_alloc|can't allocate memory|Cannot allocate memory"
    r"|could not create a primitive"  # oneDNN, when it finds no room for the code of a product
    r"|No available memory for the cache|KV cache is needed, which is larger|Available memory on node"
    r"|is less than desired GPU memory utilization|less than requested memory for kv",
    re.IGNORECASE,
)
_MAX_QUOTE_CHARS = 500
#: When the arithmetic says that it fits and it did not: how much less memory than there was is planned with.
_DOUBTS = (0.9, 0.75, 0.5, 0.25)


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of one device before the engine starts."""

    total_bytes: int
    free_bytes: int


class MemoryWatch:
    """Notes what there is before each start, and explains afterwards whether memory was the reason.

    Args:
        settings: what is served.
        error_log: where the engine's processes write their errors (`server.config.logs.write_config`).
        device: cuda or cpu.
        measure: the device's memory, None where it cannot be read.
        count_kills: how many processes the kernel has ended for want of memory so far.
    """

    def __init__(
        self,
        settings: Settings,
        error_log: Path,
        *,
        device: str | None = None,
        measure: Callable[[], Memory | None] | None = None,
        count_kills: Callable[[], int] | None = None,
    ) -> None:
        self._settings = settings
        self._error_log = error_log
        self._device = device or this_device()
        self._measure = measure or (_cpu_memory if self._device == "cpu" else _gpu_memory)
        self._count_kills = count_kills or kernel_kills
        self._before: Memory | None = None
        self._kills = 0

    def begin(self) -> None:
        """An engine is about to be started."""
        self._error_log.parent.mkdir(parents=True, exist_ok=True)
        self._error_log.write_text("")
        self._before = self._measure()
        self._kills = self._count_kills()

    def explain(self) -> str | None:
        """The screen, or None when nothing says that memory was short."""
        quote = read_memory_error(self._error_log)
        killed = self._count_kills() > self._kills
        if (quote is None and not killed) or self._before is None:
            return None
        reason = quote or "The kernel ended a process of the engine for want of memory."
        try:
            shape = find_shape(self._settings.base_model)
            wish = make_plan_request(
                self._settings, memory_bytes=_plannable(self._device, self._before), device=self._device
            )
            return screen(shape, wish, self._before, reason)
        except PlannerError:
            return f"The engine ran out of memory.\n  {reason}"


def screen(shape: Shape, wish: PlanRequest, memory: Memory, reason: str) -> str:
    """What was asked, what there was, and the smallest changes that fit."""
    asked = make_plan(shape, wish)
    changes = _changes(shape, wish, asked, memory)
    lines = [
        "The engine ran out of memory.",
        f"  reason   {reason}",
        f"  asked    {_asked(wish, asked)}",
        f"  needs    weights {gib(asked.weights_bytes)}, LoRA slots {gib(asked.lora_slots_bytes)}, "
        f"activations and runtime about {gib(asked.activations_bytes + asked.runtime_bytes)}, "
        f"{gib(asked.kv_bytes_per_sequence)} of KV cache per sequence of {asked.max_model_len} tokens",
        f"  there is {gib(memory.free_bytes)} free of {gib(memory.total_bytes)}",
    ]
    if asked.problem:
        lines.append(f"  so       {asked.problem}")
    if changes:
        width = max(len(change.flags) for change in changes)
        lines.append("Any one of these fits:" if len(changes) > 1 else "This fits:")
        lines += [f"  {change.flags:<{width}}  {change.cost}" for change in changes]
    elif asked.fits:
        lines.append(
            "By this reckoning it fits. Something took the memory in the meantime, or the engine may use less of it "
            "than is free: see `ulimit -v` and the container's limit. These take less at the peak of a step:"
        )
        lines += [f"  {change.flags}  {change.cost}" for change in _smaller_steps(shape, wish)]
    else:
        lines.append("No change of flags fits: free memory, or serve a smaller model.")
    return "\n".join(lines)


def _asked(wish: PlanRequest, asked: Plan) -> str:
    if wish.kv_cache_memory_bytes is not None:
        cache = f"--kv-cache-memory-bytes {wish.kv_cache_memory_bytes} ({gib(wish.kv_cache_memory_bytes)})"
    else:
        cache = f"--gpu-memory-utilization {wish.gpu_memory_utilization:g}"
    return (
        f"{cache} --max-model-len {asked.max_model_len} --max-num-seqs {wish.max_num_seqs} "
        f"--max-loras {wish.max_loras} --max-lora-rank {wish.max_lora_rank}"
    )


def _changes(shape: Shape, wish: PlanRequest, asked: Plan, memory: Memory) -> tuple[Change, ...]:
    """Advice for the memory there was; when that should have been enough, for less and less of it."""
    wanted = int(wish.memory_bytes * wish.gpu_memory_utilization)
    if wish.device == "cuda" and wish.kv_cache_memory_bytes is None and wanted > memory.free_bytes:
        share = int(memory.free_bytes / memory.total_bytes * 100) / 100
        lower = replace(wish, gpu_memory_utilization=max(0.01, share))
        if make_plan(shape, lower).fits:
            flags = f"--gpu-memory-utilization {share:g}"
            return (Change(flags, "what is free now", make_plan(shape, lower)),)
        return advise(shape, lower)
    if not asked.fits:
        return advise(shape, wish)
    for part in _DOUBTS:
        changes = advise(shape, replace(wish, memory_bytes=int(wish.memory_bytes * part)))
        if changes:
            return changes
    return ()


def _smaller_steps(shape: Shape, wish: PlanRequest) -> tuple[Change, ...]:
    """What makes a step's peak smaller, where nobody knows how much there was for it."""
    tokens = max(256, (wish.max_num_batched_tokens or default_batched_tokens(wish)) // 2)
    seqs = max(1, wish.max_num_seqs // 2)
    return tuple(
        Change(flags, cost, make_plan(shape, changed))
        for flags, cost, changed in (
            (
                f"--max-num-batched-tokens {tokens}",
                "long prompts take more steps",
                replace(wish, max_num_batched_tokens=tokens),
            ),
            (
                f"--max-num-seqs {seqs}",
                "smaller batches, more waiting",
                replace(wish, max_num_seqs=seqs),
            ),
        )
    )


def read_memory_error(error_log: Path) -> str | None:
    """The first sentence about memory among the errors that the engine's processes wrote."""
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
            # The last one is the exception itself; those above are source lines of its traceback.
            return re.sub(r"^[\w.]*(Error|Exception): ", "", found[-1])[:_MAX_QUOTE_CHARS]
    return None


def kernel_kills() -> int:
    """Processes that the kernel has ended for want of memory, in this container and on this machine."""
    return _counter(Path("/sys/fs/cgroup/memory.events")) + _counter(Path("/proc/vmstat"))


def _counter(path: Path) -> int:
    try:
        found = re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _plannable(device: str, memory: Memory) -> int:
    """What `PlanRequest.memory_bytes` means: on a GPU the whole device, on a CPU what is free."""
    return memory.free_bytes if device == "cpu" else memory.total_bytes


def _cpu_memory() -> Memory:
    return Memory(*main_memory())


def _gpu_memory() -> Memory | None:
    """Of the GPU with the least that is free, from its driver: asking torch would itself take memory there."""
    command = ["nvidia-smi", "--query-gpu=memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout  # noqa: S603
        rows = [[int(part) * 1024**2 for part in line.split(",")] for line in text.splitlines() if line]
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return Memory(*min(rows, key=lambda row: row[1])) if rows else None
