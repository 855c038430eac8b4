"""Runs a compiled loop in all of torch's threads, as `#pragma omp parallel` does. Leans on nothing of vLLM."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from numba import cfunc, types
from numba.core.typing import signature

_LIBRARY = ctypes.CDLL(None)  # the libraries that torch has loaded into this process

MAX_ARGUMENTS = 48
#: Sums may be reordered, because otherwise nothing is vectorized; NaN and infinity keep their meaning.
FLAGS = {"fastmath": {"reassoc", "contract"}, "error_model": "numpy"}

#: Only inside a region: the number of this thread, the number of threads, a wait for all of them.
thread = types.ExternalFunction("omp_get_thread_num", signature(types.int32))
threads = types.ExternalFunction("omp_get_num_threads", signature(types.int32))
barrier = types.ExternalFunction("GOMP_barrier", signature(types.void))

_Arguments = ctypes.c_int64 * MAX_ARGUMENTS


def compile_loop(function: Callable[[Any], None]) -> ctypes.c_void_p:
    """Compile `function(address of MAX_ARGUMENTS int64)`; kept on disk where there is a writable cache folder."""
    try:
        compiled = cfunc("void(voidptr)", cache=True, **FLAGS)(function)
    except RuntimeError:  # there is no writable cache folder
        compiled = cfunc("void(voidptr)", **FLAGS)(function)
    return ctypes.c_void_p(compiled.address)


def arguments(*values: int) -> Any:
    """An array of arguments, whose elements the caller may change between two runs."""
    return _Arguments(*values)


def run(loop: ctypes.c_void_p, values: Any) -> None:
    """Run a compiled loop with `arguments` in each thread of the region; returns when all are done."""
    _LIBRARY.GOMP_parallel(loop, values, 0, 0)
