"""The chunks of a streamed completion.

Leans on (vLLM 0.32): the fields and their order in CompletionStreamResponse, CompletionResponseStreamChoice and
UsageInfo, and which of them OpenAIServingCompletion sets; RequestOutput, CompletionOutput.
"""

from __future__ import annotations

from typing import Any

from vllm.entrypoints.generate.base.protocol import PerRequestMetrics
from vllm.entrypoints.openai.completion.protocol import CompletionStreamResponse
from vllm.entrypoints.serve.engine.protocol import PromptTokenUsageInfo, UsageInfo

from server.engine.rendering.streams.chunks import ChunkWriter, quoted, reason_text


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
            self.parts.append(self._event(index, text, tokens, reason, output.stop_reason))

    def delta(self, index: int, text: str, tokens: int) -> str:
        """See `ChunkWriter`."""
        return self._event(index, text, tokens, None, None)

    def _event(
        self, index: int, text: str, tokens: int, reason: str | None, stop_reason: int | str | None
    ) -> str:
        if not text and not tokens and not self._generated[index]:
            return ""
        self._generated[index] += tokens
        written = "null" if reason is None else quoted(reason)
        return (
            f'{self._head}{index},"text":{quoted(text)},"logprobs":null,"finish_reason":{written},'
            f'"stop_reason":{reason_text(stop_reason)},"prompt_token_ids":null,"token_ids":null}}]'
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
