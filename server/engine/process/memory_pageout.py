"""Memory that has done its work."""

from __future__ import annotations

import ctypes
from pathlib import Path

_MADV_PAGEOUT = 21  # Linux 5.4; Python's mmap does not name it


def page_out(library: str) -> None:
    """Let the kernel take back what this process has read of a library's file, until it is used again.

    Only what the kernel can read again from the file goes. An older kernel refuses, and nothing happens.

    Args:
        library: part of the file's name.
    """
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, *_, path = line.split(maxsplit=5)
        if library in path:
            start, stop = (int(address, 16) for address in place.split("-"))
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), _MADV_PAGEOUT)
