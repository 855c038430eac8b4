"""The answers that a judge compares: of the new adapter, and of the previous version or the bare base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openai

from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import Turn
from adapters.training.errors import WatchingError
from adapters.training.evaluation.evaluator import Probe
from adapters.training.evaluation.generate import answer_greedily
from adapters.training.evaluation.llm_judge import Duel, Judge, compare

_PREVIOUS = "previous"


def check_judge(config: TrainingConfig) -> None:
    """Refuse what would only fail after the training.

    Raises:
        WatchingError: the judge does not answer, or the previous version is no adapter folder.
    """
    if not config.judge:
        return
    folder = config.judge_against
    if folder is not None and not (folder / "adapter_model.safetensors").is_file():
        raise WatchingError(f"{folder.name} holds no adapter to be judged against.")
    with Judge(config.judge, config.judge_model, config.judge_key) as judge:
        judge.check()


def judged(model: Any, probe: Probe, config: TrainingConfig) -> dict[str, Any]:
    """What the judge says of the first ``evaluate_turns`` turns, for ``training.json``.

    A judge that fails now must not cost the training, so that its error stands in the verdict's place.
    """
    turns = probe.turns[: config.evaluate_turns]
    new = _answers(model, probe, turns)
    if config.judge_against is None:
        against = "base"
        with model.disable_adapter():
            old = _answers(model, probe, turns)
    else:
        against = config.judge_against.name
        old = _answers_of_previous(model, probe, turns, config.judge_against)
    duels = [
        Duel(_told(turn), _text(probe, turn.target), one, other)
        for turn, one, other in zip(turns, new, old, strict=True)
    ]
    with Judge(config.judge, config.judge_model, config.judge_key) as judge:
        try:
            found = compare(judge.prefer, duels, against).as_dict()
        except openai.OpenAIError as error:
            found = {"against": against, "error": str(error)}
    return {"model": config.judge_model, **found}


def _answers_of_previous(model: Any, probe: Probe, turns: Sequence[Turn], folder: Path) -> list[str]:
    current = model.active_adapter
    model.load_adapter(str(folder), adapter_name=_PREVIOUS)
    try:
        model.set_adapter(_PREVIOUS)
        return _answers(model, probe, turns)
    finally:
        model.set_adapter(current)
        model.delete_adapter(_PREVIOUS)


def _answers(model: Any, probe: Probe, turns: Sequence[Turn]) -> list[str]:
    answers = answer_greedily(
        model,
        [turn.prompt for turn in turns],
        end_ids=[probe.renderer.end_id],
        pad_id=probe.pad_id,
        max_new_tokens=probe.max_new_tokens,
    )
    return [_text(probe, answer) for answer in answers]


def _text(probe: Probe, ids: Sequence[int]) -> str:
    text: str = probe.renderer.tokenizer.decode(ids)
    return text.removesuffix(probe.renderer.end_token).strip()


def _told(turn: Turn) -> str:
    return "\n".join(f"{m['role']}: {m.get('content') or m.get('tool_calls')}" for m in turn.before)
