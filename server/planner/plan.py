"""Makes a memory plan from flags and memory: how the memory is used, and how many sequences the KV cache holds.

Weights, LoRA slots, KV bytes and blocks are exact (vLLM's own arithmetic). Activations and the memory of the runtime
and the device libraries are estimates; vLLM measures them at its start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from server.planner.cpu_kv_cache import default_cpu_kv_bytes, full_cpu_batch_bytes
from server.planner.errors import InvalidPlanRequest
from server.planner.shape import ModelShape, QuantizationScheme

GIB = 1024**3
#: Tokens per KV block when --engine-args sets no block_size (vLLM 0.32: per platform).
BLOCK_SIZE_TOKENS = {"cuda": 16, "cpu": 128}
#: Device context, libraries and unused allocator memory on a GPU; the engine's Python processes on a CPU.
RUNTIME_BYTES = {"cuda": int(0.6 * GIB), "cpu": int(1.2 * GIB)}
#: Per sampled row and vocabulary entry: logits, their float32 copy, the sorted copy and its indices.
_SAMPLER_BYTES = 20
_BYTES = {
    "float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """The flags of `serve`, the memory of one device, and the number of sequences that must run at once."""

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
    """Sequences of full length that must fit into the KV cache at the same time."""
    guarantees: Mapping[str, float] = field(default_factory=dict)
    """Tenant → `kv_guarantee`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan for a request. Bytes are those of one device."""

    max_model_len: int
    usable_bytes: int
    weights_bytes: int
    lora_slots_bytes: int
    lora_slot_bytes: int  # one of them
    held_adapters_bytes: int  # adapters beside the slots: in main memory; on a CPU this is part of `usable`
    activations_bytes: int
    runtime_bytes: int
    left_bytes: int  # for the KV cache, after all of the above; negative when memory is missing
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
        """Blocks that requests can use: vLLM reserves one null block."""
        return max(0, self.kv_blocks - 1)

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache holds."""
        return self.usable_blocks * self.block_size_tokens


@dataclass(frozen=True, slots=True)
class _FixedBytes:
    """Bytes on one device of everything except the KV cache, as in `Plan`."""

    usable_bytes: int
    weights_bytes: int
    lora_slot_bytes: int
    lora_slots_bytes: int
    held_adapters_bytes: int
    activations_bytes: int
    runtime_bytes: int
    left_bytes: int


def make_plan(shape: ModelShape, request: PlanRequest) -> Plan:
    """The plan for one model and one request.

    Raises:
        InvalidPlanRequest: a data type or a number of devices that cannot be planned.
        ModelUnplanned: a quantization method that the planner does not know.
    """
    weight_bytes_each = _bytes_of(request.dtype, shape)
    devices = _devices(shape, request)
    max_len = request.max_model_len or shape.max_len
    per_token = shape.kv_bytes_per_token(
        _BYTES.get(request.kv_cache_dtype, weight_bytes_each),
        devices=devices,  # auto: the dtype of the weights
    )
    block_size = request.block_size_tokens or BLOCK_SIZE_TOKENS[request.device]
    fixed = _fixed_bytes(shape, request, weight_bytes_each, devices)
    kv_cache = _kv_cache_bytes(
        shape, request, left=fixed.left_bytes, max_len=max_len, weights=fixed.weights_bytes
    )
    blocks = max(0, kv_cache) // (block_size * per_token)
    per_sequence = -(-max_len // block_size)
    sequences = max(0, blocks - 1) // per_sequence
    problem = _problem(
        request, left=fixed.left_bytes, kv_cache=kv_cache, sequences=sequences, max_len=max_len
    )
    return Plan(
        max_model_len=max_len,
        **asdict(fixed),
        kv_cache_bytes=max(0, kv_cache),
        kv_bytes_per_token=per_token,
        kv_bytes_per_sequence=per_token * max_len,
        block_size_tokens=block_size,
        kv_blocks=blocks,
        blocks_per_sequence=per_sequence,
        full_length_sequences=sequences,
        concurrency=request.concurrency,
        fits=not problem,
        problem=problem,
        guaranteed_tokens=_guaranteed_tokens(request.guarantees, blocks, block_size),
    )


def _guaranteed_tokens(guarantees: Mapping[str, float], blocks: int, block_size: int) -> dict[str, int]:
    """Tokens in the guaranteed blocks of each tenant; vLLM keeps one block for itself."""
    usable = max(0, blocks - 1)
    return {name: int(share * usable + 1e-9) * block_size for name, share in guarantees.items()}


def _fixed_bytes(shape: ModelShape, request: PlanRequest, bytes_each: int, devices: int) -> _FixedBytes:
    scheme = QuantizationScheme.of(request.quantization) if request.quantization else shape.quantization
    weights = shape.weight_bytes(bytes_each, scheme) // devices
    slot = shape.slot_parameters(request.max_lora_rank, devices=devices) * bytes_each
    slots = request.max_loras * slot
    held = request.adapters_held * shape.lora_parameters(request.max_lora_rank) * bytes_each
    activations = _activation_bytes(shape, request, bytes_each, devices)
    runtime = RUNTIME_BYTES[request.device]
    usable = request.memory_bytes  # with an explicit KV cache, vLLM does not apply the utilization
    if request.kv_cache_memory_bytes is None:
        usable = int(usable * request.gpu_memory_utilization)
    left = usable - weights - slots - activations - runtime - (held if request.device == "cpu" else 0)
    return _FixedBytes(usable, weights, slot, slots, held, activations, runtime, left)


def _kv_cache_bytes(shape: ModelShape, request: PlanRequest, *, left: int, max_len: int, weights: int) -> int:
    if request.kv_cache_memory_bytes is not None:
        return request.kv_cache_memory_bytes
    if request.device == "cpu":
        return default_cpu_kv_bytes(
            free_bytes=int(request.memory_bytes * request.gpu_memory_utilization),
            weights_bytes=weights,
            full_batch_bytes=full_cpu_batch_bytes(shape, request.max_num_seqs, max_len),
        )
    return left


def _problem(request: PlanRequest, *, left: int, kv_cache: int, sequences: int, max_len: int) -> str:
    if left <= 0:
        return f"Weights, adapters and activations alone need {gib(-left)} more than the device has."
    if kv_cache > left:
        return f"The KV cache needs {gib(kv_cache)}, but only {gib(left)} are left for it."
    if sequences < 1:
        return f"The KV cache of {gib(kv_cache)} is too small for one sequence of {max_len} tokens."
    if sequences < request.concurrency:
        return (
            f"Only {sequences} sequences of {max_len} tokens fit at the same time, not {request.concurrency}."
        )
    if request.max_num_seqs < request.concurrency:
        return f"--max-num-seqs {request.max_num_seqs} allows fewer than {request.concurrency} running sequences."
    return ""


def _activation_bytes(shape: ModelShape, request: PlanRequest, bytes_each: int, devices: int) -> int:
    """Peak of one step: the larger of the MLP on max_num_batched_tokens and the sampling of a full batch."""
    tokens = request.max_num_batched_tokens or default_batched_tokens(request)
    mlp = tokens * (4 * shape.hidden_size + 3 * shape.intermediate_size // devices) * bytes_each
    lora = tokens * 3 * request.max_lora_rank * 4
    sampler = min(request.max_num_seqs, tokens) * shape.vocab_size * _SAMPLER_BYTES
    return max(mlp + lora, sampler)


def default_batched_tokens(request: PlanRequest) -> int:
    """vLLM 0.32's default of --max-num-batched-tokens for an API server."""
    if request.device == "cpu":
        return 2048 * request.tensor_parallel_size
    for floor_gib, tokens in ((160, 16384), (70, 8192)):
        if request.memory_bytes >= floor_gib * GIB:
            return tokens
    return 2048


def _bytes_of(dtype: str, shape: ModelShape) -> int:
    name = (shape.dtype if dtype == "auto" else dtype).removeprefix("torch.")
    if dtype == "auto" and name == "float32":
        name = "bfloat16"  # vLLM loads a float32 checkpoint in 16 bits unless --dtype says otherwise
    if name not in _BYTES:
        raise InvalidPlanRequest(f"--dtype {name} is not supported; use one of {', '.join(sorted(_BYTES))}.")
    return _BYTES[name]


def _devices(shape: ModelShape, request: PlanRequest) -> int:
    devices = request.tensor_parallel_size
    if shape.heads % devices:
        raise InvalidPlanRequest(
            f"--tensor-parallel-size {devices} does not divide the model's {shape.heads} heads; use a divisor."
        )
    return devices


def gib(count_bytes: int) -> str:
    """A readable amount: in GiB, or in MiB below 1 GiB."""
    if abs(count_bytes) >= GIB:
        return f"{count_bytes / GIB:.2f} GiB"
    return f"{count_bytes / 1024**2:.1f} MiB"
