"""What is compared of two answers to the same request, and the sums from which the figures are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from adapters.training.data.tool_calls import parse_calls
from adapters.training.evaluation.metrics import repeats

_CALL = "<tool_call>"
#: Finish reasons of answers that were ended because they loop (`server.request.metering.REPETITION`).
_LOOPED = "repetition"


@dataclass(slots=True)
class ShadowedAnswer:
    """One answer while it comes; vLLM's outputs are added as they are read."""

    token_ids: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    seconds: float | None = None
    """From its first step in the engine to its last token; None where the engine did not say."""

    def add(self, output: Any, now: float) -> None:
        """Add one output of the only sequence: a delta, or the whole answer; `now` is the engine's clock."""
        (sequence,) = output.outputs
        self.token_ids += sequence.token_ids
        self.text.append(getattr(sequence, "text", "") or "")
        self.finish_reason = sequence.finish_reason or self.finish_reason
        scheduled_at = getattr(output.metrics, "scheduled_ts", None)
        self.seconds = now - scheduled_at if scheduled_at else self.seconds


def compare(served: ShadowedAnswer, shadow: ShadowedAnswer) -> dict[str, tuple[float, float]]:
    """The metrics of both answers, served first; of one answer a share is 0 or 1. `calls_valid`: both have calls."""
    both = served, shadow
    calls = [_CALL in text for text in map(_text, both)]
    pairs: dict[str, list[Any]] = {
        "ends": [answer.finish_reason == "stop" for answer in both],
        "cut_off": [answer.finish_reason == "length" for answer in both],
        "loops": [answer.finish_reason == _LOOPED or repeats(answer.token_ids) for answer in both],
        "empty": [len(answer.token_ids) <= 1 for answer in both],
        "calls": calls,
        "answer_tokens": [len(answer.token_ids) for answer in both],
        "same_answer": [1.0, float(served.token_ids == shadow.token_ids)],
        "same_beginning": [1.0, _same_beginning(served.token_ids, shadow.token_ids)],
    }
    if all(calls):
        pairs["calls_valid"] = [bool(parse_calls(_text(answer))) for answer in both]
    if all(answer.seconds is not None and answer.token_ids for answer in both):
        pairs["seconds"] = [answer.seconds or 0.0 for answer in both]
    return {name: (float(one), float(other)) for name, (one, other) in pairs.items()}


def _text(answer: ShadowedAnswer) -> str:
    return "".join(answer.text)


def _same_beginning(one: Sequence[int], other: Sequence[int]) -> float:
    """The share of the longer answer that both have in common from the first token on."""
    longest = max(len(one), len(other))
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    return same / longest if longest else 1.0


def sums(pairs: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, ...]]:
    """What one comparison adds for each metric, in the order of `adapters.registry.figures.shadows.SUMS`."""
    return {
        name: (1.0, one, one * one, other, other * other, (other - one) ** 2)
        for name, (one, other) in pairs.items()
    }
