"""Processor time per token between EngineCore's message and the connection, without an engine and without sockets.

    python -m benchmarks.front.outputs

vLLM's real output processor gets the outputs of steps of 256 sequences, and each stream is read as a route does, once
with a record and a task for each token and once past them (`server.engine.rendering.streams.shortcut`), in turns. The
connection only counts bytes.

Leans on (vLLM 0.32): AsyncLLM.generate, OutputProcessor, EngineCoreRequest, EngineCoreOutput, SamplingParams.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import uvloop
from transformers import AutoTokenizer

import demo
from server.api.responses import ResponseSender
from server.request.context import StreamAnswer, UsageCounters
from server.request.metering import MeteredStream

_STREAMS, _STEPS, _TURNS, _SLICE = 256, 100, 5, 32
_PROMPT = list(range(30))
_WORDS = range(60, 360)


@dataclass(slots=True)
class _Connection:
    """Counts what is sent."""

    sent_bytes: int = 0

    async def send(self, message: Any) -> None:
        self.sent_bytes += len(message.get("body", b""))

    def is_ready(self) -> bool:
        return True

    def write(self, part: bytes) -> None:
        self.sent_bytes += len(part)


class _Front:
    """The API process from the output processor on."""

    def __init__(self, tokenizer: Any, *, direct: bool) -> None:
        from vllm.v1.engine.output_processor import OutputProcessor

        self._direct = direct
        self._processor = OutputProcessor(tokenizer, log_stats=True)
        self.tasks = [asyncio.ensure_future(self._answer(number)) for number in range(_STREAMS)]

    def _answer(self, number: int) -> Awaitable[None]:
        """Answers one request, until its last output."""
        from server.engine.rendering.streams import shortcut
        from server.engine.rendering.streams.chat_chunks import ChatChunkWriter
        from server.engine.rendering.streams.chunks import ChunkOptions
        from server.engine.rendering.streams.direct import DirectStream

        metered = self._metered(number)
        gate: Any = SimpleNamespace(
            only_stream=lambda: metered,
            output_processor=self._processor,
            engine_core=SimpleNamespace(outputs_queue=asyncio.Queue()),
        )
        options = ChunkOptions(
            f"chatcmpl-{number:032}", "demo", "demo", 1, False, False, False, None, False, lambda *of: None
        )
        writer = ChatChunkWriter(options, int(time.time()), "assistant")
        stream = DirectStream(None, None, metered.read(), options.id, "demo", lambda of: writer)
        connection = _Connection()
        state = {"body_parts": connection, "send_body": connection.send}
        sender = ResponseSender({"state": state}, _receive, connection.send)
        opened = shortcut.of(gate, writer) if self._direct else None
        return sender.stream(StreamAnswer(stream.events(writer), shortcut=opened), {})

    def _metered(self, number: int) -> MeteredStream:
        reservation: Any = SimpleNamespace(settle=lambda **tokens: None)
        return MeteredStream(
            self._generate(number),
            reservation,
            UsageCounters(),
            _nothing,
            n=1,
            progress=None,
            steered=None,
            looped=None,
            engine_id=f"engine-{number}",
        )

    def _generate(self, number: int) -> AsyncGenerator[Any]:
        from vllm.sampling_params import RequestOutputKind, SamplingParams
        from vllm.v1.engine.async_llm import AsyncLLM

        async def add_request(request_id: str, prompt: Any, params: Any, **others: Any) -> Any:
            return self._add(number, params)

        client: Any = object.__new__(AsyncLLM)  # it needs no engine: the outputs come from here
        client.engine_core = SimpleNamespace(shutdown=lambda timeout=None: None)
        client.log_requests, client.add_request = False, add_request
        params = SamplingParams(max_tokens=2 * _STEPS, output_kind=RequestOutputKind.DELTA)
        stream: AsyncGenerator[Any] = client.generate(None, params, str(number))
        return stream

    def _add(self, number: int, params: Any) -> Any:
        from vllm.v1.engine import EngineCoreRequest

        from server.engine.rendering.output_collector import BoundedOutputCollector

        queue = BoundedOutputCollector(params.output_kind, str(number))
        request = EngineCoreRequest(
            request_id=str(number),
            external_req_id=f"engine-{number}",
            prompt_token_ids=_PROMPT,
            mm_features=None,
            sampling_params=params,
            pooling_params=None,
            arrival_time=time.time(),
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        self._processor.add_request(request, None, None, 0, queue)
        return queue

    async def step(self, step: int, *, is_last: bool = False) -> None:
        """Process the outputs of a step in slices, as vLLM's own loop, and let the streams be written."""
        from vllm.v1.engine import EngineCoreOutput, FinishReason
        from vllm.v1.metrics.stats import IterationStats

        reason = FinishReason.LENGTH if is_last else None
        outputs = [
            EngineCoreOutput(
                str(number), [_WORDS[(7 * number + 13 * step) % len(_WORDS)]], finish_reason=reason
            )
            for number in range(_STREAMS)
        ]
        stats = IterationStats()
        for begin in range(0, _STREAMS, _SLICE):
            self._processor.process_outputs(outputs[begin : begin + _SLICE], time.monotonic(), stats)
            await asyncio.sleep(0)
        await asyncio.sleep(0)


async def _nothing() -> None:
    """Stands for what is never called."""


async def _receive() -> dict[str, Any]:
    """The same."""
    return {}


async def _measure(tokenizer: Any, *, direct: bool) -> float:
    """Microseconds per token."""
    front = _Front(tokenizer, direct=direct)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await front.step(0)
    began_s = time.thread_time()
    for step in range(_STEPS):
        await front.step(step)
    used_s = time.thread_time() - began_s
    await front.step(_STEPS, is_last=True)
    await asyncio.gather(*front.tasks)
    return 1e6 * used_s / _STEPS / _STREAMS


async def _turns() -> None:
    from vllm import envs

    from server.engine.rendering.streams import shortcut

    shortcut.install()
    envs.enable_envs_cache()
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_DIR)
    rows = []
    for _ in range(_TURNS):
        rows.append([await _measure(tokenizer, direct=direct) for direct in (False, True)])
        print("with a task: {:.1f} µs, past it: {:.1f} µs".format(*rows[-1]), flush=True)
    print(
        "medians: {:.1f} and {:.1f} µs".format(*(statistics.median(row) for row in zip(*rows, strict=True)))
    )


if __name__ == "__main__":
    uvloop.run(_turns())
