"""Which linear layers of ours this CPU can run. Leans on nothing of vLLM."""

from __future__ import annotations

import ctypes
import functools

import torch

_OPENMP = ("GOMP_parallel", "GOMP_barrier", "omp_get_thread_num", "omp_get_num_threads")


def computes_in_bfloat16() -> bool:
    """Whether the CPU has instructions for products of bfloat16; others emulate them, slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def computes_packed() -> bool:
    """Whether float32 layers keep their weights in 16 bits here: an x86 CPU without bfloat16 instructions."""
    known = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return known and not computes_in_bfloat16() and can_start_threads()


def computes_four_bits() -> bool:
    """Whether AWQ's weights use our kernel here: with AVX512 they use vLLM's."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2" and can_start_threads()


@functools.cache
def can_start_threads() -> bool:
    """Whether torch was built with the OpenMP library that the compiled loops call."""
    library = ctypes.CDLL(None)  # the libraries that torch has loaded into this process
    return all(hasattr(library, name) for name in _OPENMP)


def accept_awq() -> bool:
    """`computes_four_bits`; if so, vLLM accepts float32 as the dtype of AWQ models in this process from now on."""
    if not computes_four_bits():
        return False
    from server.engine.linears_cpu.awq_dtype import allow_float32  # not above: it imports vLLM's layers

    allow_float32()
    return True
