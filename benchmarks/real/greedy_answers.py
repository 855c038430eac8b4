"""Whether answers are the greedy ones of a model in transformers, which computes in float32: the reference."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any, Final

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

Ids = Sequence[int]
#: Answers that are computed together; their logits need some 300 MB.
BATCH: Final = 10


def unlike_greedy(
    model: Any, answers: Sequence[tuple[Ids, Ids]], *, gap: float, penalty: float = 1.0
) -> list[int | None]:
    """For each (prompt, answer) the first place where the answer is not the greedy one; None if there is none.

    Args:
        gap: two logits that differ by less may change places.
        penalty: the repetition penalty of the tokens before.
    """
    found: list[int | None] = []
    for (prompt, answer), logits in zip(answers, next_logits(model, answers), strict=True):
        rows = (penalized(logits[at], [*prompt, *answer[:at]], penalty) for at in range(len(answer)))
        places = [at for at, row in enumerate(rows) if float(row.max() - row[answer[at]]) > gap]
        found.append(min(places, default=None))
    return found


def next_logits(model: Any, answers: Sequence[tuple[Ids, Ids]]) -> Iterator[torch.Tensor]:
    """Logits [tokens, V] from which each token of each (prompt, answer) is chosen.

    The prompts' common beginning is computed once. Rows are filled up at their end, which the tokens before it do not
    see.
    """
    columns = zip(*(prompt[:-1] for prompt, _ in answers), strict=False)
    common = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    beginning = _read(model, answers[0][0][:common])
    for at in range(0, len(answers), BATCH):
        batch = answers[at : at + BATCH]
        logits = _logits(model, beginning, [[*prompt[common:], *answer[:-1]] for prompt, answer in batch])
        for (prompt, answer), row in zip(batch, logits, strict=True):
            first = len(prompt) - common - 1
            yield row[first : first + len(answer)]


@torch.inference_mode()
def _read(model: Any, beginning: Ids) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    if beginning:
        model(input_ids=torch.tensor([list(beginning)]), past_key_values=cache, logits_to_keep=1)
    return cache


@torch.inference_mode()
def _logits(model: Any, beginning: DynamicCache, rows: list[list[int]]) -> torch.Tensor:
    """Logits [rows, tokens, V] after a beginning that all rows have."""
    cache = copy.deepcopy(beginning)
    if cache.get_seq_length():
        cache.batch_repeat_interleave(len(rows))
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    logits: torch.Tensor = model(input_ids=ids, past_key_values=cache).logits
    return logits


def penalized(logits: torch.Tensor, seen: Ids, penalty: float) -> torch.Tensor:
    """The logits with the repetition penalty of Keskar et al. 2019 on the tokens that were seen."""
    places = torch.tensor(sorted(set(seen)))
    changed = logits.clone()
    values = logits[places]
    changed[places] = torch.where(values > 0, values / penalty, values * penalty)
    return changed
