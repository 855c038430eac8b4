"""The loads, the executor without a model and the figures of `benchmarks front`."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

import demo
from benchmarks.front.benchmark import Measured, _ratios
from benchmarks.front.cases import ANSWER_TOKENS, CASES, arrivals_s, make_load
from benchmarks.front.client import Outcome
from benchmarks.front.executor import ModelFreeExecutor, _words
from benchmarks.front.processor_time import ProcessorTime


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_all_servers_get_the_same_requests_and_no_prompt_twice(case: Any) -> None:
    load, other = (make_load(case, port, 6, seed=3, streams=2) for port in (1, 2))
    assert load.bodies == other.bodies and load.headers == other.headers
    assert len(set(load.bodies)) == 6
    assert all(json.loads(body)["stream"] for body in load.bodies)
    assert make_load(case, 1, 6, seed=4).bodies != load.bodies


def test_requests_arrive_at_the_rate() -> None:
    due_s = arrivals_s(100.0, 1000, seed=1)
    assert due_s == sorted(due_s) and due_s[-1] == pytest.approx(10, rel=0.2)


def test_invented_tokens_are_words() -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_DIR)
    words = _words(demo.MODEL_DIR)
    assert len(words) > 100
    assert not {tokenizer.eos_token_id, *tokenizer.all_special_ids} & set(words)
    assert all("\ufffd" not in tokenizer.decode([word]) for word in words)


def test_a_token_is_made_for_each_sequence_whose_prompt_is_computed() -> None:
    executor: Any = object.__new__(ModelFreeExecutor)
    executor._words, executor._steps = [10, 11, 12], 0
    executor._prompts, executor._made = (
        {"whole": 4, "part": 9, "decodes": 2},
        {"whole": 0, "part": 0, "decodes": 3},
    )
    executor._logprobs = {"whole": 2, "part": 0, "decodes": 0}
    step = SimpleNamespace(
        scheduled_new_reqs=[
            SimpleNamespace(req_id="whole", num_computed_tokens=0),
            SimpleNamespace(req_id="part", num_computed_tokens=0),
        ],
        scheduled_cached_reqs=SimpleNamespace(req_ids=["decodes"], num_computed_tokens=[4]),
        num_scheduled_tokens={"whole": 4, "part": 5, "decodes": 1},
    )
    output = executor._sampled(step)
    assert [len(tokens) for tokens in output.sampled_token_ids] == [1, 0, 1]
    assert output.logprobs.logprobs.shape == (3, 3)
    assert executor._made == {"whole": 1, "part": 0, "decodes": 4}


def measured(api_s: float, engine_s: float, seconds: float, ttft_s: float) -> Measured:
    outcome = Outcome(seconds=seconds, ttft_s=[ttft_s], events=ANSWER_TOKENS)
    return Measured(outcome, ProcessorTime(api_s, engine_s, 0.0), ANSWER_TOKENS)


def test_ratios_are_taken_within_a_round() -> None:
    runs = {
        "plain_256": {
            "loragate": [measured(1, 2, 1, 0.1), measured(4, 2, 1, 0.3), measured(1, 4, 1, 0.1)],
            "stock": [measured(2, 2, 2, 0.2), measured(4, 2, 2, 0.3), measured(4, 2, 2, 0.4)],
        },
        "tools_256": {"loragate": [measured(3, 1, 9, 1)], "stock": [measured(2, 1, 1, 1)]},
    }
    figures = _ratios(runs)
    assert figures["api_us_per_token_vs_stock"] == 0.5
    assert figures["engine_us_per_token_vs_stock"] == 1.0
    assert figures["burst_ttft_p99_vs_stock"] == 0.5
    assert figures["max_tokens_per_s_vs_stock"] == 2.0
    assert figures["api_us_per_token_vs_stock_tools_256"] == 1.5
