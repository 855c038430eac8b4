"""The chunks of a streamed chat or completion, written straight from the engine's outputs.

vLLM's handlers build two or three pydantic models for each chunk and write them as JSON; here the parts that stay the
same are written once. The text is byte for byte theirs, with the changes of `public_events`; a test compares the two.
Here is what both kinds have in common (`chat_chunks`, `completion_chunks`).

Leans on (vLLM 0.32): UsageInfo, PerRequestMetrics, `GenerateBaseServing._raise_if_error`,
`build_spec_decoding_metrics`.
"""

from __future__ import annotations

import json.encoder
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm.entrypoints.generate.base.protocol import PerRequestMetrics
from vllm.entrypoints.generate.base.serving import build_spec_decoding_metrics
from vllm.entrypoints.serve.engine.protocol import UsageInfo

quoted = json.encoder.encode_basestring
"""A text as JSON, other characters than ASCII as they are: as pydantic writes it."""


@dataclass(frozen=True, slots=True)
class ChunkOptions:
    """What all chunks of one stream have in common.

    Args:
        id: the stream's, with the prefix of its endpoint.
        internal: the model's name in the engine.
        public: its name in the chunks.
        n: sequences.
        with_usage: a chunk with the usage ends the stream.
        with_running_usage: every chunk has the usage so far.
        null_usage: the chunks before the last one have a usage that is null.
        fingerprint: vLLM's `system_fingerprint`.
        details: whether the usage tells the cached tokens.
        raise_if_error: raises for the finish reason of a failed generation.
    """

    id: str
    internal: str
    public: str
    n: int
    with_usage: bool
    with_running_usage: bool
    null_usage: bool
    fingerprint: str | None
    details: bool
    raise_if_error: Callable[[str | None, str], None]


class ChunkWriter(ABC):
    """Writes the events of one stream; `parts` holds those that were not taken yet."""

    object: str  # the chunks' type

    def __init__(self, options: ChunkOptions, created: int) -> None:
        self.parts: list[str] = []
        self._options = options
        self._created = created
        public, internal = options.public, options.internal
        model = quoted(internal) if internal == public else f'"{public}"'
        self._head = (
            f'data: {{"id":{quoted(options.id)},"object":"{self.object}","created":{created},'
            f'"model":{model},"choices":[{{"index":'
        )
        self._tail = ',"usage":null}\n\n' if options.null_usage else "}\n\n"
        self._is_plain = not options.with_running_usage
        self._generated = [0] * options.n
        self._prompt_tokens = 0
        self._cached_tokens: int | None = None
        self._last: Any = None

    def take(self) -> str:
        """The events since the last call."""
        text = "".join(self.parts)
        self.parts.clear()
        return text

    @abstractmethod
    def write(self, result: Any) -> None:
        """Write the events of one `RequestOutput`. Raises: vLLM's GenerationError."""

    @abstractmethod
    def delta(self, index: int, text: str, tokens: int) -> str:
        """The event of new text that does not end its sequence, after the first result; "" where there is none."""

    def finish(self) -> None:
        """Write the usage, if it was asked for."""
        options = self._options
        if not options.with_usage:
            return
        metrics = None
        if options.n == 1 and (stats := build_spec_decoding_metrics(self._last)) is not None:
            metrics = PerRequestMetrics()
            metrics.speculative_decoding = stats
        generated = sum(self._generated)
        usage = UsageInfo(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=generated,
            total_tokens=self._prompt_tokens + generated,
        )
        chunk = self._usage_chunk(usage, metrics)
        text = chunk.replace(f'"model":"{options.internal}"', f'"model":"{options.public}"', 1)
        self.parts.append(f"data: {text}\n\n")

    @abstractmethod
    def _usage_chunk(self, usage: UsageInfo, metrics: PerRequestMetrics | None) -> str:
        """The last chunk, as JSON."""

    def _end(self, index: int, is_last: bool) -> str:
        """What follows the choices."""
        options = self._options
        if self._is_plain and not (is_last and options.fingerprint):
            return self._tail
        text = ""
        if options.with_running_usage:
            prompt, generated = self._prompt_tokens, self._generated[index]
            text = (
                f',"usage":{{"prompt_tokens":{prompt},"total_tokens":{prompt + generated},'
                f'"completion_tokens":{generated}{self._usage_details}}}'
            )
        if is_last and options.fingerprint and not options.with_usage:
            text += f',"system_fingerprint":{quoted(options.fingerprint)}'
        return text + self._tail

    _usage_details = ""


def reason_text(reason: int | str | None) -> str:
    """A stop string or the id of a stop token, as JSON."""
    if reason is None:
        return "null"
    return quoted(reason) if isinstance(reason, str) else str(reason)
