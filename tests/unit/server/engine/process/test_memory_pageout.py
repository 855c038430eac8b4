"""Pages of a file are reclaimed and can be read again."""

from __future__ import annotations

import mmap
import os
import re
from pathlib import Path

from server.engine.process.memory_pageout import page_out


def resident_kib(path: Path) -> int:
    smaps = Path("/proc/self/smaps").read_text()
    return sum(map(int, re.findall(rf"{re.escape(str(path))}\n(?:[^/]*?)Rss: +(\d+) kB", smaps)))


def test_pages_are_reclaimed_and_read_again() -> None:
    """The file is in this folder because /tmp may be in memory. NOTE: pages that another process reads would stay."""
    path = Path(__file__).with_name("pages-of-a-test.bin")
    try:
        with path.open("xb") as file:
            file.write(b"loragate" * (1 << 20))
            os.fsync(file.fileno())
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert mapped[:].count(b"loragate") == 1 << 20
            assert resident_kib(path) == 8192
            page_out(path.name)
            assert resident_kib(path) < 1024
            assert mapped[:].count(b"loragate") == 1 << 20
    finally:
        path.unlink(missing_ok=True)
