"""Ending and steering loops inside vLLM's structures, without a model: requests, batches, rows of logits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.sampling_params import SamplingParams
from vllm.v1.request import Request, RequestStatus
from vllm.v1.sample.logits_processor.interface import BatchUpdate, MoveDirectionality

from sampling.errors import InvalidRepetitionPolicy
from server.engine.decoding.repetition_steering import (
    STOP_REASON,
    LoopWatch,
    RepetitionPolicy,
    SteeringProcessor,
)
from server.fairness.shares import STAMP_KEY
from server.request.gate import REPETITION_KEY

FIGURES = {"window_tokens": 16, "ngram_tokens": 2, "release_tokens": 4}


def config(**figures: Any) -> Any:
    options = {STAMP_KEY: {"repetition": FIGURES | figures}}
    return SimpleNamespace(additional_config=options, model_config=SimpleNamespace(skip_tokenizer_init=True))


def params(action: str | None, **options: Any) -> SamplingParams:
    extra = {REPETITION_KEY: action} if action else None
    return SamplingParams(max_tokens=100, extra_args=extra, **options)


def request(action: str | None, **options: Any) -> Request:
    return Request("r", [1, 2, 3], params(action, **options), None)


def feed(watch: LoopWatch, asked: Request, tokens: list[int]) -> int | None:
    """How many tokens had come when the answer was ended."""
    for count, token in enumerate(tokens, 1):
        asked.append_output_token_ids(token)
        if watch.watches(asked) and watch.ends(asked, [token]):
            return count
    return None


def test_a_loop_ends_the_answer() -> None:
    asked = request("stop")
    assert feed(LoopWatch(config()), asked, [7, 8] * 20) is not None
    assert asked.status == RequestStatus.FINISHED_REPETITION
    assert asked.stop_reason == STOP_REASON and str(asked.get_finished_reason()) == "repetition"


def test_no_loop_ends_nothing_and_min_tokens_hold() -> None:
    watch = LoopWatch(config())
    assert feed(watch, request("stop"), list(range(60))) is None
    ended = feed(watch, request("stop", min_tokens=30), [7] * 60)
    assert ended == 30


@pytest.mark.parametrize("action", [None, "adjust"])
def test_who_did_not_ask_is_not_watched(action: str | None) -> None:
    asked = request(action)
    assert feed(LoopWatch(config()), asked, [7] * 60) is None
    assert not hasattr(asked, "loragate_detector")


def processor() -> SteeringProcessor:
    return SteeringProcessor(config(), torch.device("cpu"), False)


def added(*entries: tuple[int, SamplingParams, list[int]], size: int = 4) -> BatchUpdate:
    rows = [(row, asked, [1], output) for row, asked, output in entries]
    return BatchUpdate(batch_size=size, removed=[], added=rows, moved=[])


def test_only_rows_that_asked_are_steered_and_only_in_a_loop() -> None:
    steering = processor()
    looping, varied, plain = [7] * 16, list(range(16)), [7] * 16
    steering.update_state(
        added((0, params("adjust"), looping), (1, params("adjust"), varied), (2, params(None), plain))
    )
    logits = torch.full((3, 20), 2.0)
    logits[:, 9] = -1.0
    steered = steering.apply(logits.clone())
    assert torch.equal(steered[1:], logits[1:])
    # Temperature is at its bound already (asked 1.0), so the penalty alone acts, on the one token of the answer.
    assert steered[0, 7].item() == pytest.approx(2.0 / 1.3)
    others = [i for i in range(20) if i != 7]
    assert torch.equal(steered[0, others], logits[0, others])


def test_negative_logits_are_multiplied_and_temperature_rises() -> None:
    steering = processor()
    steering.update_state(added((0, params("adjust", temperature=0.5, repetition_penalty=1.1), [7] * 16)))
    steered = steering.apply(torch.full((1, 20), -2.0))
    # vLLM goes on with what was asked: (z · 1.3/1.1) · 1.1 and (z · 0.5/1.0) / 0.5.
    assert steered[0, 7].item() == pytest.approx(-2.0 * 1.3 / 1.1 * 0.5)
    assert steered[0, 8].item() == pytest.approx(-2.0 * 0.5)


def test_it_lets_go_and_waits_for_tokens_that_are_not_there_yet() -> None:
    steering = processor()
    output = [7] * 16
    steering.update_state(added((0, params("adjust"), output)))
    assert steering.apply(torch.full((1, 200), 2.0))[0, 7] < 2.0
    output += [*range(100, 140), -1]
    steering.update_state(None)
    assert steering.apply(torch.full((1, 200), 2.0))[0, 7] == 2.0


def test_state_moves_and_leaves_with_its_request() -> None:
    steering = processor()
    steering.update_state(added((0, params("adjust"), [7] * 16)))
    move = BatchUpdate(batch_size=2, removed=[], added=[], moved=[(0, 1, MoveDirectionality.UNIDIRECTIONAL)])
    steering.update_state(move)
    logits = torch.full((2, 20), 2.0)
    steered = steering.apply(logits.clone())
    assert torch.equal(steered[0], logits[0]) and steered[1, 7] < 2.0
    steering.update_state(BatchUpdate(batch_size=1, removed=[1], added=[], moved=[]))
    assert torch.equal(steering.apply(logits.clone()), logits)


def test_figures_are_checked() -> None:
    assert RepetitionPolicy.of({"share": 0.5, "most_temperature": 0.9}).thresholds.share == 0.5
    with pytest.raises(InvalidRepetitionPolicy):
        RepetitionPolicy.of({"share": 1.5})
    with pytest.raises(TypeError):
        RepetitionPolicy.of({"shares": 0.5})
