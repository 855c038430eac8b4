"""Gives memory of unused libraries back to the kernel. Leans on nothing of vLLM."""

from __future__ import annotations

import ctypes
from pathlib import Path

_MADV_PAGEOUT = 21  # Linux 5.4; Python's mmap module lacks it


def page_out(library: str) -> None:
    """Let the kernel reclaim the pages that this process has read from a library's file, until their next use.

    Only pages that the kernel can read again from the file are reclaimed. An older kernel refuses without effect.

    Args:
        library: a part of the file name.
    """
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, *_, path = line.split(maxsplit=5)
        if library in path:
            start, stop = (int(address, 16) for address in place.split("-"))
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), _MADV_PAGEOUT)
