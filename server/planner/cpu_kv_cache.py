"""The default size of the KV cache on a CPU; the engine and the planner use the same rule."""

from __future__ import annotations

from server.planner.shape import ModelShape

MAX_DEFAULT_CPU_KV_CACHE_BYTES = 4 * 1024**3
MIN_DEFAULT_CPU_KV_CACHE_BYTES = 16 * 1024**2


def default_cpu_kv_bytes(*, free_bytes: int, weights_bytes: int, full_batch_bytes: int) -> int:
    """Size of the KV cache that `serve` sets on a CPU when --kv-cache-memory-bytes is not given.

    It holds --max-num-seqs sequences of full length, within the free memory and at most 4 GiB.
    """
    left_bytes = max(free_bytes - weights_bytes, free_bytes // 8)
    return min(MAX_DEFAULT_CPU_KV_CACHE_BYTES, left_bytes, full_batch_bytes)


def full_cpu_batch_bytes(shape: ModelShape, max_num_seqs: int, max_len: int) -> int:
    """KV bytes in float32 of a full batch of full-length sequences; at least 16 MiB."""
    return max(max_num_seqs * max_len * shape.kv_bytes_per_token(4), MIN_DEFAULT_CPU_KV_CACHE_BYTES)
