"""The first wrong item of a long list is found without trying all others."""

from __future__ import annotations

import time

import pytest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

from server.engine.rendering.first_validation_error import check_lists
from server.errors import InvalidRequest

GOOD = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("wire", "field"), [(ChatCompletionRequest, "messages"), (ResponsesRequest, "input")]
)
def test_the_first_wrong_item_is_named(wire: type, field: str) -> None:
    check_lists(wire, {field: [GOOD] * 20})
    with pytest.raises(InvalidRequest) as caught:
        check_lists(wire, {field: [*([GOOD] * 5), {"role": 1}, *([{}] * 20)]})
    assert str(caught.value).startswith(f"{field}.5.") and str(caught.value.param).startswith(f"{field}.5")


def test_four_thousand_wrong_items_cost_as_much_as_one() -> None:
    began = time.thread_time()
    with pytest.raises(InvalidRequest):
        check_lists(ResponsesRequest, {"input": [{}] * 4000})
    assert time.thread_time() - began < 0.2  # all of them: 15 s and more than 2 GB


def test_other_models_and_texts_are_left_to_their_model() -> None:
    check_lists(CompletionRequest, {"prompt": [{}] * 50})
    check_lists(ResponsesRequest, {"input": "text"})
    check_lists(ChatCompletionRequest, {})
