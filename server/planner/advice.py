"""Finds single flag changes that make a request fit, the least costly first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from server.planner.errors import PlannerError
from server.planner.plan import GIB, Plan, PlanRequest, gib, make_plan
from server.planner.shape import ModelShape

HIGHEST_UTILIZATION = 0.95
SHORTEST_LEN = 256
_MIB = 1024**2
#: Share of the remaining memory that is advised: other processes vary, and activations are an estimate.
_ADVISED_SHARE = 0.9
#: Flags that are not named like their field of the request.
_FLAGS = {"adapters_held": "max-cpu-loras"}
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
    yield from filter(None, (search(shape, request) for search in _SEARCHES))


def _paired(shape: ModelShape, request: PlanRequest) -> Iterator[Change]:
    if shape.quantization is not None or request.quantization is not None:
        return
    for other in _fitting(shape, replace(request, quantization="awq")):
        yield Change(f"--quantization awq {other.flags}", f"an AWQ checkpoint; {other.cost}", other.plan)


def _utilization(shape: ModelShape, request: PlanRequest) -> Change | None:
    percent = _least(
        int(request.gpu_memory_utilization * 100) + 1,
        int(HIGHEST_UTILIZATION * 100),
        lambda n: _fits(shape, request, gpu_memory_utilization=n / 100),
    )
    if percent is None or request.kv_cache_memory_bytes is not None:
        return None
    return change(shape, request, "less memory for other processes", gpu_memory_utilization=percent / 100)


def _kv_cache(shape: ModelShape, request: PlanRequest) -> Change | None:
    """A KV cache of explicit size (on a CPU `serve` always sets one): the remaining or the needed memory."""
    if request.kv_cache_memory_bytes is None and request.device != "cpu":
        return None
    plan = make_plan(shape, request)
    blocks = plan.blocks_per_sequence * request.concurrency + 1
    needed_bytes = blocks * plan.block_size_tokens * plan.kv_bytes_per_token
    left_bytes = int(plan.left_bytes * _ADVISED_SHARE) // _MIB * _MIB
    size_bytes = left_bytes if plan.kv_cache_bytes > plan.left_bytes else needed_bytes
    enough = f"enough for {request.concurrency} sequences of full length"
    cost = "the remaining memory less a tenth" if size_bytes == left_bytes else enough
    return _sufficient(shape, request, cost, kv_cache_memory_bytes=size_bytes) if size_bytes > 0 else None


def _num_seqs(shape: ModelShape, request: PlanRequest) -> Change | None:
    if request.max_num_seqs < request.concurrency:
        return _sufficient(shape, request, "larger batches", max_num_seqs=request.concurrency)
    return _lowered(shape, request, "max_num_seqs", request.concurrency, "smaller batches, longer waiting")


def _loras(shape: ModelShape, request: PlanRequest) -> Change | None:
    return _lowered(shape, request, "max_loras", 1, "fewer adapters in one batch")


def _held(shape: ModelShape, request: PlanRequest) -> Change | None:
    """Adapters loaded in addition to the slots; only on a CPU do they take memory from the KV cache."""
    if request.device != "cpu":
        return None
    return _lowered(shape, request, "adapters_held", request.max_loras, "cold adapters are loaded more often")


def _rank(shape: ModelShape, request: PlanRequest) -> Change | None:
    cost = "adapters of a higher rank are refused"
    lower = (rank for rank in _RANKS if rank < request.max_lora_rank)
    return next(filter(None, (_sufficient(shape, request, cost, max_lora_rank=rank) for rank in lower)), None)


def _model_len(shape: ModelShape, request: PlanRequest) -> Change | None:
    now = request.max_model_len or shape.max_len
    length = _most(SHORTEST_LEN, now - 1, lambda n: _fits(shape, request, max_model_len=n))
    if length is None:
        return None
    length -= length % (256 if length > 1024 else 16)
    return change(shape, request, f"prompt plus answer at most {length} tokens", max_model_len=length)


def _concurrency(shape: ModelShape, request: PlanRequest) -> Change | None:
    cost = "further sequences wait, or are preempted when all are long"
    return _lowered(shape, request, "concurrency", 1, cost)


def _awq(shape: ModelShape, request: PlanRequest) -> Change | None:
    if shape.quantization is not None or request.quantization is not None:
        return None
    return _sufficient(shape, request, "needs an AWQ checkpoint of the model", quantization="awq")


def _devices(shape: ModelShape, request: PlanRequest) -> Change | None:
    if request.device != "cuda":
        return None
    more = (count for count in (2, 4, 8) if count > request.tensor_parallel_size and shape.heads % count == 0)
    found = (
        _sufficient(shape, request, f"{count} devices like this one", tensor_parallel_size=count)
        for count in more
    )
    return next(filter(None, found), None)


#: The least costly first.
_SEARCHES: tuple[Callable[[ModelShape, PlanRequest], Change | None], ...] = (
    _kv_cache, _utilization, _held, _num_seqs, _loras, _rank, _model_len, _concurrency, _awq, _devices,
)  # fmt: skip


def _more_memory(shape: ModelShape, request: PlanRequest) -> Iterator[Change]:
    needed = _least(
        request.memory_bytes // GIB + 1, 4096, lambda n: _fits(shape, request, memory_bytes=n * GIB)
    )
    if needed is not None:
        plan = make_plan(shape, replace(request, memory_bytes=needed * GIB))
        yield Change(f"--memory {needed}GiB", f"{gib(needed * GIB - request.memory_bytes)} more", plan)


def change(shape: ModelShape, request: PlanRequest, cost: str, **values: Any) -> Change:
    """The change of a request's fields to `values`, whether it fits or not. Raises: PlannerError."""
    flags = " ".join(
        f"--{_FLAGS.get(name) or name.replace('_', '-')} {value}" for name, value in values.items()
    )
    return Change(flags, cost, make_plan(shape, replace(request, **values)))


def _sufficient(shape: ModelShape, request: PlanRequest, cost: str, **values: Any) -> Change | None:
    """The change, if the request then fits."""
    return change(shape, request, cost, **values) if _fits(shape, request, **values) else None


def _lowered(shape: ModelShape, request: PlanRequest, name: str, lowest: int, cost: str) -> Change | None:
    """A field set to the highest value below the present one with which the request fits."""
    highest = getattr(request, name) - 1
    count = _most(lowest, highest, lambda n: _fits(shape, request, **{name: n}))
    return None if count is None else change(shape, request, cost, **{name: count})


def _fits(shape: ModelShape, request: PlanRequest, **values: Any) -> bool:
    try:
        return make_plan(shape, replace(request, **values)).fits
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
