"""Signs of life of the engine's processes, in two small files that they share with the server.

The server creates the files (`LifeSigns`) and passes their folder on in an environment variable. Every process that
vLLM starts attaches to them through our plugin: it writes the time of its last step into the first one, and the
stack of its threads into the second one when it gets `STACK_SIGNAL`.

Leans on (vLLM 0.32): it loads our plugin in every process; vllm.v1.engine.core.EngineCore (its methods are callable
as utilities).
"""

from __future__ import annotations

import contextlib
import faulthandler
import mmap
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

VARIABLE = "_LORAGATE_LIFE_SIGNS"
"""Names the folder of the two files; set only while an engine starts, and read only by its processes."""

STACK_SIGNAL = signal.SIGUSR2
PING_METHOD = "loragate_ping"
#: Memory, so that writing never waits for a disk.
_MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108 (the folder made inside belongs to this user alone)
_BEATS, _STACKS = "beats", "stacks"
_LAST_BEAT, _PINGS = 0, 1
_CELLS = 2
_CELL_BYTES = 8

_cells: memoryview | None = None
_stack_file: BinaryIO | None = None


# In the engine's processes


def attach() -> None:
    """Share this process's signs of life with the server that started it; does nothing in any other process."""
    global _cells, _stack_file
    folder = os.environ.get(VARIABLE)
    if folder is None or _cells is not None or multiprocessing.parent_process() is None:
        return
    with (Path(folder) / _BEATS).open("r+b") as file:
        _cells = _map(file)
    _stack_file = (Path(folder) / _STACKS).open("ab")
    faulthandler.register(STACK_SIGNAL, file=_stack_file, all_threads=True)
    beat()


def beat() -> None:
    """Report that this process makes progress. It costs about 0.1 µs."""
    if _cells is not None:
        _cells[_LAST_BEAT] = time.monotonic_ns()


def answer_pings() -> None:
    """Add the method that the server calls as a ping to EngineCore, in its process. Idempotent."""
    from vllm.v1.engine.core import EngineCore

    setattr(EngineCore, PING_METHOD, _answer)


def _answer(core: object) -> None:
    """EngineCore handles a ping between two steps, and without work at once."""
    beat()
    if _cells is not None:
        _cells[_PINGS] += 1


# In the server


class LifeSigns:
    """What the processes of one engine report. Close it when the engine has ended."""

    def __init__(self) -> None:
        usable = os.access(_MEMORY_FOLDER, os.W_OK)
        self._folder = Path(tempfile.mkdtemp(prefix="loragate-", dir=_MEMORY_FOLDER if usable else None))
        with (self._folder / _BEATS).open("w+b") as file:
            file.truncate(_CELLS * _CELL_BYTES)
            self._cells = _map(file)
        self._stack_file = (self._folder / _STACKS).open("w+b")

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Let processes that are started in this block attach; afterwards nothing is left in the file system."""
        os.environ[VARIABLE] = str(self._folder)
        try:
            yield
        finally:
            del os.environ[VARIABLE]
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def last_beat(self) -> int:
        """Changes with every step, every pass through a layer on a CPU, and every ping."""
        return int(self._cells[_LAST_BEAT])

    @property
    def pings(self) -> int:
        """Number of pings that EngineCore has handled."""
        return int(self._cells[_PINGS])

    def stacks(self) -> str:
        """The stacks that were written so far."""
        self._stack_file.seek(0)
        return self._stack_file.read().decode(errors="replace")

    def close(self) -> None:
        """Free the memory."""
        self._stack_file.close()


def _map(file: BinaryIO) -> memoryview:
    return memoryview(mmap.mmap(file.fileno(), _CELLS * _CELL_BYTES)).cast("Q")
