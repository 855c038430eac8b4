"""Answers and log probabilities of peft in transformers: the reference that a served adapter is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from adapters.training.data.chat_template import Renderer
from adapters.training.data.reader import read_conversations
from adapters.training.evaluation.generate import answer_turns
from adapters.training.evaluation.metrics import held_out_turns

_TURN_END = "<|im_end|>"


@dataclass(frozen=True, slots=True)
class Reference:
    """One held-out turn as peft computes it, in float32.

    ``ids``: prompt and expected answer; ``logprobs``: of every id after the first; ``answer``: the greedy
    answer, through the end token.
    """

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    answer: tuple[int, ...]


def references(base: Path, adapter: Path, chats: Path, *, count: int, max_new_tokens: int) -> list[Reference]:
    """The first ``count`` held-out turns of ``chats``, answered one by one, without batching."""
    transformers_logging.disable_progress_bar()
    renderer = Renderer(AutoTokenizer.from_pretrained(base, local_files_only=True), _TURN_END)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
    model = PeftModel.from_pretrained(model, str(adapter)).eval()
    found = []
    for turn in held_out_turns(renderer, read_conversations(chats), count):
        ids = turn.prompt + turn.target
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
        logprobs = logits.log_softmax(-1).gather(1, torch.tensor(ids[1:]).unsqueeze(1)).squeeze(1)
        (answer,) = answer_turns(model, renderer, [turn], max_new_tokens)
        found.append(Reference(turn.prompt, ids, tuple(logprobs.tolist()), answer))
    return found
