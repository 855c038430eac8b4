"""From a wish (flags and memory) to a plan: what the memory goes to, and what fits into the KV cache.

Exact are weights, LoRA slots, KV bytes and blocks (the same arithmetic as vLLM's). Estimates are activations and
what runtime and device libraries take; vLLM measures those at its start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from server.planner.errors import InvalidPlanRequest
from server.planner.shape import Quantization, Shape

GIB = 1024**3
MAX_DEFAULT_CPU_KV_CACHE_BYTES = 4 * GIB
MIN_DEFAULT_CPU_KV_CACHE_BYTES = 16 * 1024**2
#: Tokens per KV block where --engine-args names no block_size (vLLM 0.32: per platform).
BLOCK_SIZE_TOKENS = {"cuda": 16, "cpu": 128}
#: Device context, libraries and allocator slack on a GPU; the interpreters of the engine's processes on a CPU.
RUNTIME_BYTES = {"cuda": int(0.6 * GIB), "cpu": int(1.2 * GIB)}
#: Per sampled row and vocabulary entry: logits, their float32 copy, the sorted copy and its indices.
_SAMPLER_BYTES = 20
_BYTES = {
    "float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What is asked: flags of `serve`, the memory of one device, and how much shall run at once."""

    memory_bytes: int
    device: str = "cuda"  # or cpu
    max_model_len: int | None = None
    gpu_memory_utilization: float = 0.9
    kv_cache_memory_bytes: int | None = None
    max_num_seqs: int = 64
    max_num_batched_tokens: int | None = None
    max_loras: int = 8
    max_lora_rank: int = 16
    adapters_held: int = 32
    dtype: str = "auto"
    kv_cache_dtype: str = "auto"
    quantization: str | None = None
    tensor_parallel_size: int = 1
    block_size_tokens: int | None = None
    concurrency: int = 1
    """Sequences of full length that shall fit into the KV cache at the same time."""
    guarantees: Mapping[str, float] = field(default_factory=dict)
    """Tenant → `kv_guarantee`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer to a wish. Bytes are those of one device."""

    max_model_len: int
    usable_bytes: int
    weights_bytes: int
    lora_slots_bytes: int
    lora_slot_bytes: int  # one of them
    held_adapters_bytes: int  # adapters loaded beside the slots: in main memory, on a CPU also of `usable`
    activations_bytes: int
    runtime_bytes: int
    left_bytes: int  # for the KV cache, after all of the above; negative when there is nothing
    kv_cache_bytes: int
    kv_bytes_per_token: int
    kv_bytes_per_sequence: int
    block_size_tokens: int
    kv_blocks: int  # as vLLM reports them, its null block included
    blocks_per_sequence: int
    full_length_sequences: int
    concurrency: int
    fits: bool
    problem: str
    """Why it does not fit; empty when it does."""
    guaranteed_tokens: Mapping[str, int]

    @property
    def usable_blocks(self) -> int:
        """Blocks that requests can use: vLLM keeps one null block."""
        return max(0, self.kv_blocks - 1)

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache holds."""
        return self.usable_blocks * self.block_size_tokens


def make_plan(shape: Shape, wish: PlanRequest) -> Plan:
    """The plan for one model and one wish.

    Raises:
        InvalidPlanRequest: a type or a number of devices that cannot be planned with.
        ModelUnplanned: a quantization without arithmetic.
    """
    weight_bytes_each = _bytes_of(wish.dtype, shape)
    devices = _devices(shape, wish)
    max_len = wish.max_model_len or shape.max_len
    per_token = shape.kv_bytes_per_token(_kv_bytes_each(wish, weight_bytes_each), devices=devices)
    block_size = wish.block_size_tokens or BLOCK_SIZE_TOKENS[wish.device]
    weights = shape.weight_bytes(weight_bytes_each, _quantization(shape, wish)) // devices
    slot = shape.slot_parameters(wish.max_lora_rank, devices=devices) * weight_bytes_each
    held = wish.adapters_held * shape.lora_parameters(wish.max_lora_rank) * weight_bytes_each
    activations = _activation_bytes(shape, wish, weight_bytes_each, devices)
    usable = wish.memory_bytes  # with an explicit KV cache, vLLM does not look at the utilization
    if wish.kv_cache_memory_bytes is None:
        usable = int(usable * wish.gpu_memory_utilization)
    fixed = weights + wish.max_loras * slot + activations + RUNTIME_BYTES[wish.device]
    left = usable - fixed - (held if wish.device == "cpu" else 0)
    kv_cache = _kv_cache_bytes(shape, wish, left=left, max_len=max_len, weights=weights)
    blocks = max(0, kv_cache) // (block_size * per_token)
    per_sequence = -(-max_len // block_size)
    sequences = max(0, blocks - 1) // per_sequence
    problem = _problem(wish, left=left, kv_cache=kv_cache, sequences=sequences, max_len=max_len)
    return Plan(
        max_model_len=max_len,
        usable_bytes=usable,
        weights_bytes=weights,
        lora_slots_bytes=wish.max_loras * slot,
        lora_slot_bytes=slot,
        held_adapters_bytes=held,
        activations_bytes=activations,
        runtime_bytes=RUNTIME_BYTES[wish.device],
        left_bytes=left,
        kv_cache_bytes=max(0, kv_cache),
        kv_bytes_per_token=per_token,
        kv_bytes_per_sequence=per_token * max_len,
        block_size_tokens=block_size,
        kv_blocks=blocks,
        blocks_per_sequence=per_sequence,
        full_length_sequences=sequences,
        concurrency=wish.concurrency,
        fits=not problem,
        problem=problem,
        guaranteed_tokens={
            name: int(share * max(0, blocks - 1) + 1e-9) * block_size
            for name, share in wish.guarantees.items()
        },
    )


def default_cpu_kv_bytes(*, free_bytes: int, weights_bytes: int, full_batch_bytes: int) -> int:
    """The KV cache that `serve` gives the engine on a CPU when --kv-cache-memory-bytes is not set.

    Room for --max-num-seqs sequences of full length, within what is free and at most 4 GiB.
    """
    left_bytes = max(free_bytes - weights_bytes, free_bytes // 8)
    return min(MAX_DEFAULT_CPU_KV_CACHE_BYTES, left_bytes, full_batch_bytes)


def full_cpu_batch_bytes(shape: Shape, max_num_seqs: int, max_len: int) -> int:
    """KV bytes in float32 of a full batch of full-length sequences; never less than 16 MiB."""
    return max(max_num_seqs * max_len * shape.kv_bytes_per_token(4), MIN_DEFAULT_CPU_KV_CACHE_BYTES)


def _kv_cache_bytes(shape: Shape, wish: PlanRequest, *, left: int, max_len: int, weights: int) -> int:
    if wish.kv_cache_memory_bytes is not None:
        return wish.kv_cache_memory_bytes
    if wish.device == "cpu":
        return default_cpu_kv_bytes(
            free_bytes=int(wish.memory_bytes * wish.gpu_memory_utilization),
            weights_bytes=weights,
            full_batch_bytes=full_cpu_batch_bytes(shape, wish.max_num_seqs, max_len),
        )
    return left


def _problem(wish: PlanRequest, *, left: int, kv_cache: int, sequences: int, max_len: int) -> str:
    if left <= 0:
        return f"Weights, adapters and activations alone need {gib(-left)} more than there is."
    if kv_cache > left:
        return f"The KV cache of {gib(kv_cache)} is larger than the {gib(left)} that are left for it."
    if sequences < 1:
        return f"Not one sequence of {max_len} tokens fits into the KV cache of {gib(kv_cache)}."
    if sequences < wish.concurrency:
        return f"{sequences} sequences of {max_len} tokens fit at the same time, not {wish.concurrency}."
    if wish.max_num_seqs < wish.concurrency:
        return f"--max-num-seqs {wish.max_num_seqs} lets fewer than {wish.concurrency} sequences run."
    return ""


def _activation_bytes(shape: Shape, wish: PlanRequest, bytes_each: int, devices: int) -> int:
    """Peak of one step: the MLP of max_num_batched_tokens, then logits and sampling of a full batch."""
    tokens = wish.max_num_batched_tokens or default_batched_tokens(wish)
    mlp = tokens * (4 * shape.hidden_size + 3 * shape.intermediate_size // devices) * bytes_each
    lora = tokens * 3 * wish.max_lora_rank * 4
    sampler = min(wish.max_num_seqs, tokens) * shape.vocab_size * _SAMPLER_BYTES
    return max(mlp + lora, sampler)


def default_batched_tokens(wish: PlanRequest) -> int:
    """vLLM 0.32's default of --max-num-batched-tokens for an API server."""
    if wish.device == "cpu":
        return 2048 * wish.tensor_parallel_size
    for floor_gib, tokens in ((160, 16384), (70, 8192)):
        if wish.memory_bytes >= floor_gib * GIB:
            return tokens
    return 2048


def _quantization(shape: Shape, wish: PlanRequest) -> Quantization | None:
    return Quantization.of(wish.quantization) if wish.quantization else shape.quantization


def _bytes_of(dtype: str, shape: Shape) -> int:
    name = (shape.dtype if dtype == "auto" else dtype).removeprefix("torch.")
    if dtype == "auto" and name == "float32":
        name = "bfloat16"  # vLLM loads a float32 checkpoint in 16 bits unless it is told otherwise
    if name not in _BYTES:
        raise InvalidPlanRequest(f"--dtype {name} is none of {', '.join(sorted(_BYTES))}")
    return _BYTES[name]


def _kv_bytes_each(wish: PlanRequest, bytes_each: int) -> int:
    return bytes_each if wish.kv_cache_dtype == "auto" else _BYTES.get(wish.kv_cache_dtype, bytes_each)


def _devices(shape: Shape, wish: PlanRequest) -> int:
    devices = wish.tensor_parallel_size
    if shape.heads % devices:
        raise InvalidPlanRequest(f"--tensor-parallel-size {devices} does not divide the {shape.heads} heads")
    return devices


def gib(count_bytes: int) -> str:
    """Bytes for people: GiB, or MiB below one of them."""
    if abs(count_bytes) >= GIB:
        return f"{count_bytes / GIB:.2f} GiB"
    return f"{count_bytes / 1024**2:.1f} MiB"
