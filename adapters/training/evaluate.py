"""Measuring on held-out chats: greedy answers compared with what was wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adapters.training.calls import parse_calls
from adapters.training.conversation import Conversation, Renderer, Turn
from adapters.training.generate import answer_greedily


@dataclass(frozen=True, slots=True)
class Score:
    """Shares between 0 and 1 over ``turns`` held-out answers.

    ``exact``: right, that is the same parsed calls where calls were wanted, the same tokens elsewhere, and
    stopped by itself. ``tool_calls``: the same over the ``call_turns`` alone, None without any.
    ``stops``: ended with the end token instead of running out of room.
    """

    turns: int
    exact: float
    call_turns: int
    tool_calls: float | None
    stops: float

    def as_dict(self) -> dict[str, Any]:
        """For ``training.json``."""
        return asdict(self)


def held_out_turns(renderer: Renderer, conversations: Sequence[Conversation], limit: int) -> list[Turn]:
    """The first ``limit`` assistant turns of ``conversations``."""
    found: list[Turn] = []
    for conversation in conversations:
        found += renderer.turns(conversation)
        if len(found) >= limit:
            break
    return found[:limit]


def measure(
    model: Any, renderer: Renderer, turns: Sequence[Turn], *, pad_id: int, max_new_tokens: int
) -> Score:
    """Answer every turn's prompt greedily and score the answers. ``turns`` must not be empty."""
    answers = answer_greedily(
        model,
        [t.prompt for t in turns],
        end_ids=[renderer.end_id],
        pad_id=pad_id,
        max_new_tokens=max_new_tokens,
    )
    return score(renderer, turns, answers)


def score(renderer: Renderer, turns: Sequence[Turn], answers: Sequence[Sequence[int]]) -> Score:
    """Compare ``answers`` with the targets of ``turns``."""
    stops = [bool(a) and a[-1] == renderer.end_id for a in answers]
    right = [s and _is_right(renderer, t, a) for t, a, s in zip(turns, answers, stops, strict=True)]
    calls = [r for t, r in zip(turns, right, strict=True) if t.answer.get("tool_calls")]
    return Score(
        turns=len(turns),
        exact=_share(right),
        call_turns=len(calls),
        tool_calls=_share(calls) if calls else None,
        stops=_share(stops),
    )


def _is_right(renderer: Renderer, turn: Turn, answer: Sequence[int]) -> bool:
    if tuple(answer) == turn.target:
        return True
    wanted = [c["function"] for c in turn.answer.get("tool_calls") or ()]
    if not wanted:
        return False
    calls = parse_calls(renderer.tokenizer.decode(answer))
    return calls == [{"name": c["name"], "arguments": c["arguments"]} for c in wanted]


def _share(hits: Sequence[bool]) -> float:
    return round(sum(hits) / len(hits), 4)
