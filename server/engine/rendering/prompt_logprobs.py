"""Reads the log-probabilities of a prompt in slices, with a pause for the event loop after each.

vLLM makes one object for each of prompt tokens x prompt_logprobs within the step in which they arrive: half a second
for 4,000 tokens with 20 each. Here the tensors of a large step are kept, and read before the answer is passed on.
The handlers then replace infinite ones in one piece, 10 ms for the most; that is done here as well.
Leans on (vLLM 0.32): LogprobsProcessor._update_prompt_logprobs, which appends rows to its list `prompt_logprobs`, and
the output processor, which passes that list on in `RequestOutput.prompt_logprobs`; `clamp_prompt_logprobs`, which
changes rows in place, in the modules of the handlers of chats and completions.
"""

from __future__ import annotations

from typing import Any, Final

from vllm.entrypoints.generate.base.serving import clamp_prompt_logprobs
from vllm.entrypoints.openai.chat_completion import serving as chat_serving
from vllm.entrypoints.openai.completion import serving as completion_serving
from vllm.v1.engine.logprobs import LogprobsProcessor
from vllm.v1.outputs import LogprobsTensors

from server.engine.rendering.logprobs import SLICE
from server.request.event_loop import pause

_read: Final = LogprobsProcessor._update_prompt_logprobs


class UnreadLogprobs(list[Any]):
    """vLLM's list of prompt logprobs; further rows of it are still tensors."""

    def __init__(self, rows: list[Any], processor: LogprobsProcessor) -> None:
        super().__init__(clamp_prompt_logprobs(rows) or ())
        self._processor = processor
        self._tensors: list[LogprobsTensors] = []

    def keep(self, tensors: LogprobsTensors) -> None:
        """Read these later."""
        self._tensors.append(tensors)

    async def complete(self) -> None:
        """Read all rows that are left."""
        while self._tensors:
            tensors = self._tensors.pop(0)
            count, width = tensors.logprobs.shape
            step = max(1, SLICE // width)
            for begin in range(0, count, step):
                rows = slice(begin, begin + step)
                part = LogprobsTensors(
                    tensors.logprob_token_ids[rows],
                    tensors.logprobs[rows],
                    tensors.selected_token_ranks[rows],
                )
                shown, self._processor.prompt_logprobs = self._processor.prompt_logprobs, self
                begun = len(self)
                _read(self._processor, part)
                self._processor.prompt_logprobs = shown
                clamp_prompt_logprobs(self[begun:])
                await pause()


def install() -> None:
    """Let vLLM's processors keep large tensors, and its handlers leave the rows of these as they are. Idempotent."""

    def clamp_the_others(rows: Any) -> Any:
        return rows if isinstance(rows, UnreadLogprobs) else clamp_prompt_logprobs(rows)

    for handlers in (chat_serving, completion_serving):
        vars(handlers).update(clamp_prompt_logprobs=clamp_the_others)

    def read_or_keep(processor: LogprobsProcessor, tensors: LogprobsTensors) -> None:
        rows = processor.prompt_logprobs
        if not isinstance(rows, UnreadLogprobs):
            if not isinstance(rows, list) or tensors.logprobs.numel() <= SLICE:
                _read(processor, tensors)
                return
            rows = processor.prompt_logprobs = UnreadLogprobs(rows, processor)
        rows.keep(tensors)

    LogprobsProcessor._update_prompt_logprobs = read_or_keep
