"""Finds single flag changes that make a request fit, the least costly first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from server.planner.errors import PlannerError
from server.planner.plan import GIB, Plan, PlanRequest, gib, make_plan
from server.planner.shape import ModelShape

HIGHEST_UTILIZATION = 0.95
SHORTEST_LEN = 256
_MIB = 1024**2
#: Share of the remaining memory that is advised: other processes vary, and activations are an estimate.
_ADVISED_SHARE = 0.9
_RANKS = (512, 320, 256, 128, 64, 32, 16, 8, 1)


@dataclass(frozen=True, slots=True)
class Change:
    """Flags that make the request fit, and their cost."""

    flags: str
    cost: str
    plan: Plan


def advise(shape: ModelShape, request: PlanRequest) -> tuple[Change, ...]:
    """Changes that make the request fit, each sufficient alone; empty when it fits unchanged.

    When no single flag is enough on this device, pairs are tried. When no pair is enough, the result is the memory
    that the request needs.
    """
    if make_plan(shape, request).fits:
        return ()
    single = tuple(_fitting(shape, request))
    if any("--tensor-parallel-size" not in change.flags for change in single):
        return single
    return single + tuple(_paired(shape, request)) or tuple(_more_memory(shape, request))


def _fitting(shape: ModelShape, request: PlanRequest) -> Iterator[Change]:
    for search in _SEARCHES:
        change = search(shape, request)
        if change is not None:
            yield change


def _paired(shape: ModelShape, request: PlanRequest) -> Iterator[Change]:
    if shape.quantization is not None or request.quantization is not None:
        return
    smaller = replace(request, quantization="awq")
    for change in _fitting(shape, smaller):
        yield Change(f"--quantization awq {change.flags}", f"an AWQ checkpoint; {change.cost}", change.plan)


def _utilization(shape: ModelShape, request: PlanRequest) -> Change | None:
    percent = _least(
        int(request.gpu_memory_utilization * 100) + 1,
        int(HIGHEST_UTILIZATION * 100),
        lambda n: _fits(shape, replace(request, gpu_memory_utilization=n / 100)),
    )
    if percent is None or request.kv_cache_memory_bytes is not None:
        return None
    changed = replace(request, gpu_memory_utilization=percent / 100)
    return _change(
        shape, changed, f"--gpu-memory-utilization {percent / 100:g}", "less memory for other processes"
    )


def _kv_cache(shape: ModelShape, request: PlanRequest) -> Change | None:
    """A KV cache of explicit size (on a CPU `serve` always sets one): the remaining or the needed memory."""
    if request.kv_cache_memory_bytes is None and request.device != "cpu":
        return None
    plan = make_plan(shape, request)
    blocks = plan.blocks_per_sequence * request.concurrency + 1
    needed_bytes = blocks * plan.block_size_tokens * plan.kv_bytes_per_token
    left_bytes = int(plan.left_bytes * _ADVISED_SHARE) // _MIB * _MIB
    size_bytes = left_bytes if plan.kv_cache_bytes > plan.left_bytes else needed_bytes
    changed = replace(request, kv_cache_memory_bytes=size_bytes)
    if size_bytes <= 0 or not _fits(shape, changed):
        return None
    enough = f"enough for {request.concurrency} sequences of full length"
    cost = "the remaining memory less a tenth" if size_bytes == left_bytes else enough
    return _change(shape, changed, f"--kv-cache-memory-bytes {size_bytes}", cost)


def _num_seqs(shape: ModelShape, request: PlanRequest) -> Change | None:
    if request.max_num_seqs < request.concurrency:
        changed = replace(request, max_num_seqs=request.concurrency)
        if _fits(shape, changed):
            return _change(shape, changed, f"--max-num-seqs {request.concurrency}", "larger batches")
        return None
    count = _most(
        request.concurrency,
        request.max_num_seqs - 1,
        lambda n: _fits(shape, replace(request, max_num_seqs=n)),
    )
    if count is None:
        return None
    return _change(
        shape,
        replace(request, max_num_seqs=count),
        f"--max-num-seqs {count}",
        "smaller batches, longer waiting",
    )


def _loras(shape: ModelShape, request: PlanRequest) -> Change | None:
    count = _most(1, request.max_loras - 1, lambda n: _fits(shape, replace(request, max_loras=n)))
    if count is None:
        return None
    changed = replace(request, max_loras=count)
    return _change(shape, changed, f"--max-loras {count}", "fewer adapters in one batch")


def _held(shape: ModelShape, request: PlanRequest) -> Change | None:
    """Adapters loaded in addition to the slots; only on a CPU do they take memory from the KV cache."""
    if request.device != "cpu":
        return None
    count = _most(
        request.max_loras,
        request.adapters_held - 1,
        lambda n: _fits(shape, replace(request, adapters_held=n)),
    )
    if count is None:
        return None
    changed = replace(request, adapters_held=count)
    return _change(shape, changed, f"--max-cpu-loras {count}", "cold adapters are loaded more often")


def _rank(shape: ModelShape, request: PlanRequest) -> Change | None:
    for rank in _RANKS:
        changed = replace(request, max_lora_rank=rank)
        if rank < request.max_lora_rank and _fits(shape, changed):
            return _change(shape, changed, f"--max-lora-rank {rank}", "adapters of a higher rank are refused")
    return None


def _model_len(shape: ModelShape, request: PlanRequest) -> Change | None:
    now = request.max_model_len or shape.max_len
    length = _most(SHORTEST_LEN, now - 1, lambda n: _fits(shape, replace(request, max_model_len=n)))
    if length is None:
        return None
    step = 256 if length > 1024 else 16
    length -= length % step
    changed = replace(request, max_model_len=length)
    return _change(shape, changed, f"--max-model-len {length}", f"prompt plus answer at most {length} tokens")


def _concurrency(shape: ModelShape, request: PlanRequest) -> Change | None:
    count = _most(1, request.concurrency - 1, lambda n: _fits(shape, replace(request, concurrency=n)))
    if count is None:
        return None
    changed = replace(request, concurrency=count)
    return _change(
        shape, changed, f"--concurrency {count}", "further sequences wait, or are preempted when all are long"
    )


def _awq(shape: ModelShape, request: PlanRequest) -> Change | None:
    changed = replace(request, quantization="awq")
    if shape.quantization is not None or request.quantization is not None or not _fits(shape, changed):
        return None
    return _change(shape, changed, "--quantization awq", "needs an AWQ checkpoint of the model")


def _devices(shape: ModelShape, request: PlanRequest) -> Change | None:
    for count in (2, 4, 8):
        changed = replace(request, tensor_parallel_size=count)
        fits = request.device == "cuda" and count > request.tensor_parallel_size and shape.heads % count == 0
        if fits and _fits(shape, changed):
            return _change(
                shape, changed, f"--tensor-parallel-size {count}", f"{count} devices like this one"
            )
    return None


#: The least costly first.
_SEARCHES: tuple[Callable[[ModelShape, PlanRequest], Change | None], ...] = (
    _kv_cache, _utilization, _held, _num_seqs, _loras, _rank, _model_len, _concurrency, _awq, _devices,
)  # fmt: skip


def _more_memory(shape: ModelShape, request: PlanRequest) -> Iterator[Change]:
    needed = _least(
        request.memory_bytes // GIB + 1, 4096, lambda n: _fits(shape, replace(request, memory_bytes=n * GIB))
    )
    if needed is not None:
        changed = replace(request, memory_bytes=needed * GIB)
        yield _change(
            shape,
            changed,
            f"--memory {needed}GiB",
            f"{gib(changed.memory_bytes - request.memory_bytes)} more",
        )


def _change(shape: ModelShape, changed: PlanRequest, flags: str, cost: str) -> Change:
    return Change(flags, cost, make_plan(shape, changed))


def _fits(shape: ModelShape, request: PlanRequest) -> bool:
    try:
        return make_plan(shape, request).fits
    except PlannerError:
        return False


def _most(low: int, high: int, fits: Callable[[int], bool]) -> int | None:
    """The largest number in [low, high] that fits, where every smaller one does too."""
    if high < low or not fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _least(low: int, high: int, fits: Callable[[int], bool]) -> int | None:
    """The smallest number in [low, high] that fits, where every larger one does too."""
    if high < low or not fits(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return low
