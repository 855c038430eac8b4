"""The chunks of a streamed chat.

Leans on (vLLM 0.32): the fields and their order in ChatCompletionStreamResponse, ChatCompletionResponseStreamChoice
and UsageInfo, and which of them OpenAIServingChat sets; RequestOutput, CompletionOutput,
`_make_prompt_tokens_details`.
"""

from __future__ import annotations

from typing import Any

from vllm.entrypoints.generate.base.protocol import PerRequestMetrics
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionStreamResponse
from vllm.entrypoints.openai.chat_completion.serving import _make_prompt_tokens_details
from vllm.entrypoints.serve.engine.protocol import UsageInfo

from server.engine.rendering.streams.chunks import ChunkOptions, ChunkWriter, quoted, reason_text


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
            if reason is None:
                self.parts.append(self.delta(index, text, tokens))
                continue
            if not text and not tokens and not self._generated[index]:
                continue
            self._generated[index] += tokens
            self._ended[index] = True
            content = f'"content":{quoted(text)}' if text else ""
            self.parts.append(
                f'{self._head}{index},"delta":{{{content}}},"logprobs":null,"finish_reason":{quoted(reason)},'
                f'"stop_reason":{reason_text(output.stop_reason)},"token_ids":null}}]{self._end(index, True)}'
            )

    def delta(self, index: int, text: str, tokens: int) -> str:
        """See `ChunkWriter`."""
        self._generated[index] += tokens
        if not text:
            return ""
        return (
            f'{self._head}{index},"delta":{{"content":{quoted(text)}}},"logprobs":null,'
            f'"finish_reason":null,"token_ids":null}}]{self._end(index, False)}'
        )

    def _begin(self, result: Any) -> None:
        self._prompt_tokens = len(result.prompt_token_ids or ()) + len(result.encoder_prompt_token_ids or ())
        self._cached_tokens = result.num_cached_tokens
        self._created_cache_tokens = result.num_cache_creation_tokens
        for index in range(self._options.n):
            usage = self._end(index, False).removesuffix(self._tail)
            self.parts.append(
                f'{self._head}{index},"delta":{{"role":{quoted(self._role)},"content":""}},"logprobs":null,'
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
