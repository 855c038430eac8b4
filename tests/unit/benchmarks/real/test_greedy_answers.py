"""The reference finds the first token of an answer that is not the greedy one."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM

import demo
from adapters.training.evaluation.generate import answer_greedily
from benchmarks.real.greedy_answers import unlike_greedy


def test_the_first_other_token_is_found_behind_a_common_beginning() -> None:
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(demo.MODEL_DIR, dtype=torch.float32).eval()
    prompts = [(*range(20, 30), 5, 6), (*range(20, 30), 7)]
    first, second = answer_greedily(model, prompts, end_ids=[], pad_id=0, max_new_tokens=6)
    wrong = (*second[:3], (second[3] + 1) % 300, *second[4:])
    answers = [(prompts[0], first), (prompts[1], second), (prompts[1], wrong)]
    assert unlike_greedy(model, answers, gap=1e-3) == [None, None, 3]
    with torch.inference_mode():
        row = model(torch.tensor([[*prompts[1], *wrong[:3]]])).logits[0, -1]
    apart = float(row.max() - row[wrong[3]])
    assert unlike_greedy(model, answers[2:], gap=apart + 1e-3)[0] != 3, "within the gap both are greedy"
