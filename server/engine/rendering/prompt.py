"""A rendered prompt on its way from a worker process to vLLM's handlers in the API process.

Leans on (vLLM 0.32): the results of `BaseRenderer.render_chat` and `render_cmpl` (`vllm.inputs.TokensInput`).
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_IDS = "prompt_token_ids"


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """What vLLM's renderer returns, in a form that is unpickled quickly: a list of ids would take 30 ns for each."""

    conversation: list[Any]
    """The last message of a chat, which an answer with `echo` repeats; empty for a completion."""
    inputs: tuple[tuple[bytes, dict[str, Any]], ...]
    """For each prompt its token ids (64 bits each) and the other fields of its `EngineInput`."""

    @classmethod
    def of(cls, conversation: Sequence[Any], inputs: Sequence[Mapping[str, Any]]) -> RenderedPrompt:
        """Pack the renderer's results. Raises: OverflowError: a token id has more than 64 bits."""
        packed = tuple(
            (array("q", each[_IDS]).tobytes(), {k: v for k, v in each.items() if k != _IDS})
            for each in inputs
        )
        return cls(list(conversation[-1:]), packed)

    def engine_inputs(self) -> list[dict[str, Any]]:
        """The prompts as the renderer returned them."""
        return [{**others, _IDS: array("q", ids).tolist()} for ids, others in self.inputs]
