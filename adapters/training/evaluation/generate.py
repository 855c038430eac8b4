"""Greedy answers of a transformers model, batched by length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import torch
from transformers import DynamicCache

from adapters.training.data.chat_template import Renderer, Turn

_BATCH = 32
_LEAST_SHARED = 32  # tokens at the beginning of all prompts of a batch, from which on they are computed once


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
    """Greedy answers. What all prompts begin with is computed once; padding stands behind it, and is masked."""
    shared = _shared_length(prompts)
    width = max(len(p) for p in prompts)
    ids = torch.full((len(prompts), width), pad_id)
    mask = torch.ones_like(ids)
    for row, prompt in enumerate(prompts):
        padding = width - len(prompt)
        ids[row, :shared] = torch.tensor(prompt[:shared])
        ids[row, shared + padding :] = torch.tensor(prompt[shared:])
        mask[row, shared : shared + padding] = 0
    device = next(model.parameters()).device
    with torch.inference_mode():
        cache = _read(model, ids[:1, :shared].to(device), len(prompts)) if shared else None
        out = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            past_key_values=cache,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(end_ids),
            pad_token_id=pad_id,
            use_cache=True,
        )
    rows: list[list[int]] = out[:, width:].tolist()
    return rows


def _shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """How many first tokens all prompts share; 0 if they are too few to gain anything."""
    rows = [tuple(prompt) for prompt in prompts]
    both = zip(min(rows), max(rows), strict=False)  # in this order, all others are between them
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], both))
    shared = min(same, min(len(p) for p in prompts) - 1)  # each prompt keeps a token of its own
    return shared if len(prompts) > 1 and shared >= _LEAST_SHARED else 0


def _read(model: Any, ids: torch.Tensor, rows: int) -> DynamicCache:
    """The keys and values of ``ids`` (1, tokens), for ``rows`` rows."""
    cache = DynamicCache(config=model.config)
    model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.batch_repeat_interleave(rows)
    return cache


def _through_end(row: Sequence[int], end_ids: Sequence[int]) -> tuple[int, ...]:
    """``row`` through its first end id; the rest is the padding of a batch."""
    for at, token in enumerate(row):
        if token in end_ids:
            return tuple(row[: at + 1])
    return tuple(row)
