"""The chunks of a streamed chat or completion, written straight from the engine's outputs.

vLLM's handlers build two or three pydantic models for each chunk and write them as JSON; here the parts that stay the
same are written once. The text is byte for byte theirs, with the changes of `public_events`; a test compares the two.

Leans on (vLLM 0.32): the fields and their order in ChatCompletionStreamResponse, ChatCompletionResponseStreamChoice,
CompletionStreamResponse, CompletionResponseStreamChoice and UsageInfo, and which of them their handlers set;
RequestOutput, CompletionOutput, `GenerateBaseServing._raise_if_error`, `build_spec_decoding_metrics`.
"""

from __future__ import annotations

import json.encoder
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm.entrypoints.generate.base.protocol import PerRequestMetrics
from vllm.entrypoints.generate.base.serving import build_spec_decoding_metrics
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionStreamResponse
from vllm.entrypoints.openai.chat_completion.serving import _make_prompt_tokens_details
from vllm.entrypoints.openai.completion.protocol import CompletionStreamResponse
from vllm.entrypoints.serve.engine.protocol import PromptTokenUsageInfo, UsageInfo

_quoted = json.encoder.encode_basestring
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
        model = _quoted(internal) if internal == public else f'"{public}"'
        self._head = (
            f'data: {{"id":{_quoted(options.id)},"object":"{self.object}","created":{created},'
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
            text += f',"system_fingerprint":{_quoted(options.fingerprint)}'
        return text + self._tail

    _usage_details = ""


class ChatChunkWriter(ChunkWriter):
    """Chunks of `/v1/chat/completions`, without tools, reasoning, log-probabilities and echo."""

    object = "chat.completion.chunk"
    _usage_details = ',"completion_tokens_details":null'

    def __init__(self, options: ChunkOptions, created: int, role: str) -> None:
        super().__init__(options, created)
        self._role = role
        self._ended = [False] * options.n
        self._created_cache_tokens: int | None = None

    def write(self, result: Any) -> None:
        """See `ChunkWriter`; the first events name the role."""
        if self._last is None:
            self._begin(result)
        self._last = result
        for output in result.outputs:
            index = output.index
            if self._ended[index]:
                continue
            reason, text, tokens = output.finish_reason, output.text, len(output.token_ids)
            if reason is not None:
                self._options.raise_if_error(reason, self._options.id)
            if not text and not tokens and not self._generated[index]:
                continue
            self._generated[index] += tokens
            if reason is None:
                if text:
                    self.parts.append(
                        f'{self._head}{index},"delta":{{"content":{_quoted(text)}}},"logprobs":null,'
                        f'"finish_reason":null,"token_ids":null}}]{self._end(index, False)}'
                    )
                continue
            self._ended[index] = True
            content = f'"content":{_quoted(text)}' if text else ""
            self.parts.append(
                f'{self._head}{index},"delta":{{{content}}},"logprobs":null,"finish_reason":{_quoted(reason)},'
                f'"stop_reason":{_reason(output.stop_reason)},"token_ids":null}}]{self._end(index, True)}'
            )

    def _begin(self, result: Any) -> None:
        self._prompt_tokens = len(result.prompt_token_ids or ()) + len(result.encoder_prompt_token_ids or ())
        self._cached_tokens = result.num_cached_tokens
        self._created_cache_tokens = result.num_cache_creation_tokens
        for index in range(self._options.n):
            usage = self._end(index, False).removesuffix(self._tail)
            self.parts.append(
                f'{self._head}{index},"delta":{{"role":{_quoted(self._role)},"content":""}},"logprobs":null,'
                f'"finish_reason":null}}]{usage},"prompt_token_ids":null,"prompt_text":null{self._tail}'
            )

    def _usage_chunk(self, usage: UsageInfo, metrics: PerRequestMetrics | None) -> str:
        options = self._options
        usage.prompt_tokens_details = _make_prompt_tokens_details(
            options.details, self._cached_tokens, self._created_cache_tokens, None
        )
        chunk = ChatCompletionStreamResponse(
            id=options.id,
            object=self.object,
            created=self._created,
            choices=[],
            model=options.internal,
            usage=usage,
            system_fingerprint=options.fingerprint,
            metrics=metrics,
        )
        return str(chunk.model_dump_json(exclude_unset=True, exclude_none=True))


class CompletionChunkWriter(ChunkWriter):
    """Chunks of `/v1/completions` of one prompt, without log-probabilities, echo and token ids."""

    object = "text_completion"

    def write(self, result: Any) -> None:
        """See `ChunkWriter`."""
        if self._last is None:
            self._cached_tokens = result.num_cached_tokens
        self._last = result
        if result.prompt_token_ids is not None:
            self._prompt_tokens = len(result.prompt_token_ids)
        for output in result.outputs:
            index, reason, text = output.index, output.finish_reason, output.text
            tokens = len(output.token_ids)
            if reason is not None:
                self._options.raise_if_error(reason, self._options.id)
            if not text and not tokens and not self._generated[index]:
                continue
            self._generated[index] += tokens
            written = "null" if reason is None else _quoted(reason)
            self.parts.append(
                f'{self._head}{index},"text":{_quoted(text)},"logprobs":null,"finish_reason":{written},'
                f'"stop_reason":{_reason(output.stop_reason)},"prompt_token_ids":null,"token_ids":null}}]'
                f"{self._end(index, reason is not None)}"
            )

    def _usage_chunk(self, usage: UsageInfo, metrics: PerRequestMetrics | None) -> str:
        options = self._options
        if options.details and self._cached_tokens is not None:
            usage.prompt_tokens_details = PromptTokenUsageInfo(cached_tokens=self._cached_tokens)
        chunk = CompletionStreamResponse(
            id=options.id,
            created=self._created,
            model=options.internal,
            choices=[],
            usage=usage,
            system_fingerprint=options.fingerprint,
            metrics=metrics,
        )
        return str(chunk.model_dump_json(exclude_unset=False, exclude_none=True))


def _reason(reason: int | str | None) -> str:
    """A stop string or the id of a stop token, as JSON."""
    if reason is None:
        return "null"
    return _quoted(reason) if isinstance(reason, str) else str(reason)
