"""Bounds what vLLM does with an engine's outputs in one piece, on the event loop.

It processes the outputs of a step in chunks of 128 sequences: 100 ms if all have log-probabilities. And it merges the
outputs of a stream that nobody takes, as of a client that reads slowly, however many they become: its handler then
builds one chunk of all of them.
Leans on (vLLM 0.32): VLLM_V1_OUTPUT_PROC_CHUNK_SIZE, vllm.envs.is_set; AsyncLLM.add_request, which creates a
RequestOutputCollector (`put`, `get`, `get_nowait`, `output`, `ready`, `aggregate`) for each generation;
RequestOutput.add.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, Protocol

from vllm import envs
from vllm.outputs import RequestOutput
from vllm.v1.engine import async_llm
from vllm.v1.engine.output_processor import RequestOutputCollector

_CHUNK: Final = "VLLM_V1_OUTPUT_PROC_CHUNK_SIZE"
#: Sequences whose outputs are processed between two pauses; 5 ms with the most log-probabilities.
_SEQUENCES: Final = 32
#: Tokens and log-probabilities together that are merged to one output.
MERGED: Final = 256


class DeltaReceiver(Protocol):
    """Takes the text of a stream past the queue (`server.engine.rendering.streams.shortcut`)."""

    def is_ready(self) -> bool:
        """Whether it can take a delta now."""

    def send(self, index: int, text: str, token_ids: list[int]) -> None:
        """Take the new text and tokens of a sequence."""


class BoundedOutputCollector(RequestOutputCollector):
    """vLLM's queue of a generation, whose merged outputs have a bounded size."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.receiver: DeltaReceiver | None = None
        """Set when the stream has begun, if deltas may pass the queue."""
        self._is_awaited = False  # its reader has dealt with all outputs before
        self._further: deque[RequestOutput] = deque()  # after `output`

    def put(self, output: Any) -> None:
        """See `RequestOutputCollector`."""
        last = self._further[-1] if self._further else self.output
        if self.aggregate and isinstance(last, RequestOutput) and isinstance(output, RequestOutput):
            if _size(last) + _size(output) <= MERGED:
                last.add(output, aggregate=True)
            else:
                self._further.append(output)
            return
        if isinstance(output, Exception):
            self._further.clear()
        super().put(output)

    async def get(self) -> Any:
        """See `RequestOutputCollector`."""
        self._is_awaited = True
        try:
            output = await super().get()
        finally:
            self._is_awaited = False
        self._advance()
        return output

    def ready_receiver(self) -> DeltaReceiver | None:
        """`receiver`, if the next delta may go there: the reader waits, so nothing is in front of it."""
        receiver = self.receiver
        is_next = self._is_awaited and self.output is None
        return receiver if receiver is not None and is_next and receiver.is_ready() else None

    def fail(self, error: Exception) -> None:
        """End the generation with an error; no delta passes the queue any more."""
        self.receiver = None
        self.put(error)

    def get_nowait(self) -> Any:
        """See `RequestOutputCollector`."""
        output = super().get_nowait()
        self._advance()
        return output

    def _advance(self) -> None:
        if self._further:
            self.output = self._further.popleft()
            self.ready.set()


def install() -> None:
    """Let vLLM process and merge less at once; an operator's own VLLM_V1_OUTPUT_PROC_CHUNK_SIZE holds. Idempotent."""
    vars(async_llm).update(RequestOutputCollector=BoundedOutputCollector)
    if not envs.is_set(_CHUNK):
        vars(envs)[_CHUNK] = _SEQUENCES


def _size(result: RequestOutput) -> int:
    return sum(
        len(output.token_ids) + sum(len(each or ()) for each in output.logprobs or ())
        for output in result.outputs
    )
