"""When a wish does not fit: which single change of a flag makes it fit, the least costly first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from server.planner.errors import PlannerError
from server.planner.plan import GIB, Plan, PlanRequest, gib, make_plan
from server.planner.shape import Shape

HIGHEST_UTILIZATION = 0.95
SHORTEST_LEN = 256
_MIB = 1024**2
#: Part of what is left that is advised: other processes breathe, and activations are an estimate.
_SPARED = 0.9
_RANKS = (512, 320, 256, 128, 64, 32, 16, 8, 1)


@dataclass(frozen=True, slots=True)
class Change:
    """Flags that make the wish fit, and what they cost."""

    flags: str
    cost: str
    plan: Plan


def advise(shape: Shape, wish: PlanRequest) -> tuple[Change, ...]:
    """Changes with which the wish fits, each by itself enough; empty when it fits as it is.

    When no single flag is enough on this device, pairs are tried; when those are not either, the memory that it
    takes is said.
    """
    if make_plan(shape, wish).fits:
        return ()
    single = tuple(_fitting(shape, wish))
    if any("--tensor-parallel-size" not in change.flags for change in single):
        return single
    return single + tuple(_paired(shape, wish)) or tuple(_more_memory(shape, wish))


def _fitting(shape: Shape, wish: PlanRequest) -> Iterator[Change]:
    for kind in _KINDS:
        change = kind(shape, wish)
        if change is not None:
            yield change


def _paired(shape: Shape, wish: PlanRequest) -> Iterator[Change]:
    if shape.quantization is not None or wish.quantization is not None:
        return
    smaller = replace(wish, quantization="awq")
    for change in _fitting(shape, smaller):
        yield Change(f"--quantization awq {change.flags}", f"an AWQ checkpoint; {change.cost}", change.plan)


def _utilization(shape: Shape, wish: PlanRequest) -> Change | None:
    percent = _least(
        int(wish.gpu_memory_utilization * 100) + 1,
        int(HIGHEST_UTILIZATION * 100),
        lambda n: _fits(shape, replace(wish, gpu_memory_utilization=n / 100)),
    )
    if percent is None or wish.kv_cache_memory_bytes is not None:
        return None
    changed = replace(wish, gpu_memory_utilization=percent / 100)
    return _change(
        shape, changed, f"--gpu-memory-utilization {percent / 100:g}", "less room for everything else"
    )


def _kv_cache(shape: Shape, wish: PlanRequest) -> Change | None:
    """A KV cache that was given explicitly (or left to `serve` on a CPU): what is left, or what is needed."""
    if wish.kv_cache_memory_bytes is None and wish.device != "cpu":
        return None
    plan = make_plan(shape, wish)
    blocks = plan.blocks_per_sequence * wish.concurrency + 1
    needed_bytes = blocks * plan.block_size_tokens * plan.kv_bytes_per_token
    left_bytes = int(plan.left_bytes * _SPARED) // _MIB * _MIB
    size_bytes = left_bytes if plan.kv_cache_bytes > plan.left_bytes else needed_bytes
    changed = replace(wish, kv_cache_memory_bytes=size_bytes)
    if size_bytes <= 0 or not _fits(shape, changed):
        return None
    enough = f"enough for {wish.concurrency} of full length"
    cost = "what is left, less a tenth" if size_bytes == left_bytes else enough
    return _change(shape, changed, f"--kv-cache-memory-bytes {size_bytes}", cost)


def _num_seqs(shape: Shape, wish: PlanRequest) -> Change | None:
    if wish.max_num_seqs < wish.concurrency:
        changed = replace(wish, max_num_seqs=wish.concurrency)
        if _fits(shape, changed):
            return _change(shape, changed, f"--max-num-seqs {wish.concurrency}", "larger batches")
        return None
    count = _most(
        wish.concurrency, wish.max_num_seqs - 1, lambda n: _fits(shape, replace(wish, max_num_seqs=n))
    )
    if count is None:
        return None
    return _change(
        shape, replace(wish, max_num_seqs=count), f"--max-num-seqs {count}", "smaller batches, more waiting"
    )


def _loras(shape: Shape, wish: PlanRequest) -> Change | None:
    count = _most(1, wish.max_loras - 1, lambda n: _fits(shape, replace(wish, max_loras=n)))
    if count is None:
        return None
    changed = replace(wish, max_loras=count)
    return _change(shape, changed, f"--max-loras {count}", "fewer adapters in one batch")


def _held(shape: Shape, wish: PlanRequest) -> Change | None:
    """Adapters in memory beside the slots: they compete with the KV cache on a CPU only."""
    if wish.device != "cpu":
        return None
    count = _most(
        wish.max_loras, wish.adapters_held - 1, lambda n: _fits(shape, replace(wish, adapters_held=n))
    )
    if count is None:
        return None
    changed = replace(wish, adapters_held=count)
    return _change(shape, changed, f"--max-cpu-loras {count}", "cold adapters are loaded more often")


def _rank(shape: Shape, wish: PlanRequest) -> Change | None:
    for rank in _RANKS:
        changed = replace(wish, max_lora_rank=rank)
        if rank < wish.max_lora_rank and _fits(shape, changed):
            return _change(shape, changed, f"--max-lora-rank {rank}", "adapters of a higher rank are refused")
    return None


def _model_len(shape: Shape, wish: PlanRequest) -> Change | None:
    now = wish.max_model_len or shape.max_len
    length = _most(SHORTEST_LEN, now - 1, lambda n: _fits(shape, replace(wish, max_model_len=n)))
    if length is None:
        return None
    step = 256 if length > 1024 else 16
    length -= length % step
    changed = replace(wish, max_model_len=length)
    return _change(shape, changed, f"--max-model-len {length}", f"prompt plus answer at most {length} tokens")


def _fewer_at_once(shape: Shape, wish: PlanRequest) -> Change | None:
    count = _most(1, wish.concurrency - 1, lambda n: _fits(shape, replace(wish, concurrency=n)))
    if count is None:
        return None
    changed = replace(wish, concurrency=count)
    return _change(
        shape, changed, f"--concurrency {count}", "the rest waits its turn, or is preempted when all are long"
    )


def _awq(shape: Shape, wish: PlanRequest) -> Change | None:
    changed = replace(wish, quantization="awq")
    if shape.quantization is not None or wish.quantization is not None or not _fits(shape, changed):
        return None
    return _change(shape, changed, "--quantization awq", "needs an AWQ checkpoint of the model")


def _devices(shape: Shape, wish: PlanRequest) -> Change | None:
    for count in (2, 4, 8):
        changed = replace(wish, tensor_parallel_size=count)
        fits = wish.device == "cuda" and count > wish.tensor_parallel_size and shape.heads % count == 0
        if fits and _fits(shape, changed):
            return _change(
                shape, changed, f"--tensor-parallel-size {count}", f"{count} devices like this one"
            )
    return None


#: The least costly first.
_KINDS: tuple[Callable[[Shape, PlanRequest], Change | None], ...] = (
    _kv_cache, _utilization, _held, _num_seqs, _loras, _rank, _model_len, _fewer_at_once, _awq, _devices,
)  # fmt: skip


def _more_memory(shape: Shape, wish: PlanRequest) -> Iterator[Change]:
    needed = _least(
        wish.memory_bytes // GIB + 1, 4096, lambda n: _fits(shape, replace(wish, memory_bytes=n * GIB))
    )
    if needed is not None:
        changed = replace(wish, memory_bytes=needed * GIB)
        yield _change(
            shape, changed, f"--memory {needed}GiB", f"{gib(changed.memory_bytes - wish.memory_bytes)} more"
        )


def _change(shape: Shape, changed: PlanRequest, flags: str, cost: str) -> Change:
    return Change(flags, cost, make_plan(shape, changed))


def _fits(shape: Shape, wish: PlanRequest) -> bool:
    try:
        return make_plan(shape, wish).fits
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
