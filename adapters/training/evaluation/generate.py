"""Greedy answers of a transformers model, batched by length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from adapters.training.data.chat_template import Renderer, Turn

_BATCH = 32


def answer_turns(
    model: Any,
    renderer: Renderer,
    turns: Sequence[Turn],
    max_new_tokens: int,
    progress: Callable[[int], None] = lambda answered: None,
) -> list[tuple[int, ...]]:
    """The greedy answers to the prompts of ``turns``, as ``answer_greedily`` gives them."""
    prompts, ends = [turn.prompt for turn in turns], [renderer.end_id]
    return answer_greedily(
        model,
        prompts,
        end_ids=ends,
        pad_id=renderer.pad_id,
        max_new_tokens=max_new_tokens,
        progress=progress,
    )


def answer_greedily(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    end_ids: Sequence[int],
    pad_id: int,
    max_new_tokens: int,
    progress: Callable[[int], None] = lambda answered: None,
) -> list[tuple[int, ...]]:
    """The ids of each prompt's answer, in the order of ``prompts``.

    An answer that stopped by itself ends with one of ``end_ids``; one that reached ``max_new_tokens`` does not.
    The model's mode (training or evaluation) is restored. ``progress`` gets the number of prompts of each batch.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: list[tuple[int, ...]] = [()] * len(prompts)
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            rows = _generate(model, [prompts[i] for i in chosen], end_ids, pad_id, max_new_tokens)
            for i, row in zip(chosen, rows, strict=True):
                answers[i] = _through_end(row, end_ids)
            progress(len(chosen))
    finally:
        model.train(was_training)
    return answers


def _generate(
    model: Any, prompts: list[Sequence[int]], end_ids: Sequence[int], pad_id: int, max_new_tokens: int
) -> list[list[int]]:
    width = max(len(p) for p in prompts)
    ids = torch.full((len(prompts), width), pad_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    device = next(model.parameters()).device
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(end_ids),
            pad_token_id=pad_id,
            use_cache=True,
        )
    rows: list[list[int]] = out[:, width:].tolist()
    return rows


def _through_end(row: Sequence[int], end_ids: Sequence[int]) -> tuple[int, ...]:
    """``row`` through its first end id; the rest is the padding of a batch."""
    for at, token in enumerate(row):
        if token in end_ids:
            return tuple(row[: at + 1])
    return tuple(row)
