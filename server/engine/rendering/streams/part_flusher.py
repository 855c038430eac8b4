"""Decides when the parts that plain streams keep are written: at once, or together where the process falls behind.

One write to a socket costs as much as all the rest of a token. While the outputs of further steps of the engine wait
to be processed, parts of the same stream that follow are written together with those that are kept.

Leans on (vLLM 0.32): AsyncLLM.engine_core, AsyncMPClient.outputs_queue, AsyncLLM.output_processor.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

from server.request.context import PartWriter
from server.request.gate import Gate

logger = logging.getLogger("loragate.engine")

#: How long a part is kept at most: a reader still sees ten changes in a second.
LONGEST_S: Final = 0.1
#: Streams that are written in one turn of the event loop, about 2 ms.
_STREAMS_PER_TURN: Final = 64


class PartFlusher:
    """Writes what streams keep, in the event loop's next turn or when it has caught up with the engine.

    Args:
        is_behind: whether outputs of further steps wait.
    """

    def __init__(self, is_behind: Callable[[], bool]) -> None:
        self._is_behind = is_behind
        self._kept: dict[PartWriter, Callable[[Exception], None]] = {}
        self._until_s = 0.0

    def add(self, parts: PartWriter, fail: Callable[[Exception], None]) -> None:
        """This stream keeps a part; `fail` ends it when the part cannot be written."""
        if not self._kept:
            self._until_s = time.monotonic() + LONGEST_S
            asyncio.get_running_loop().call_soon(self._flush)
        self._kept[parts] = fail

    def _flush(self) -> None:
        try:
            if not self._is_behind() or time.monotonic() > self._until_s:
                for parts in list(self._kept)[:_STREAMS_PER_TURN]:
                    _write(parts, self._kept.pop(parts))
        finally:
            if self._kept:
                asyncio.get_running_loop().call_soon(self._flush)


def _write(parts: PartWriter, fail: Callable[[Exception], None]) -> None:
    try:
        parts.flush()
    except Exception as error:  # one stream's connection is no reason to leave the others waiting
        logger.exception("A part of a stream cannot be written.")
        fail(error)


_flushers: WeakKeyDictionary[object, PartFlusher] = WeakKeyDictionary()


def flusher_of(gate: Gate) -> PartFlusher:
    """The one of the engine that the gate leads to."""
    outputs: asyncio.Queue[object] = gate.engine_core.outputs_queue
    return _flushers.setdefault(gate.output_processor, PartFlusher(lambda: not outputs.empty()))
