"""The symbols of vLLM 0.32 that server/engine/decoding/tool_calls relies on or replaces."""

from __future__ import annotations

import inspect
import json

from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
from vllm.entrypoints.generate import api_router
from vllm.entrypoints.openai.chat_completion.batch_serving import OpenAIServingChatBatch
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.responses.serving import OpenAIServingResponses
from vllm.parser import Parser, ParserManager
from vllm.parser.abstract_parser import DelegatingParser
from vllm.parser.engine.parser_engine import ParserEngine
from vllm.parser.qwen3 import _qwen3_arg_converter
from vllm.renderers import chat_utils
from vllm.tool_parsers.hermes_tool_parser import Hermes2ProToolParser
from vllm.tool_parsers.utils import find_tool_properties

from server.engine.decoding.tool_calls import answers
from server.engine.decoding.tool_calls.forms import CLOSE, OPEN
from server.engine.decoding.tool_calls.parser import FoldingParser, folding


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


def source(function: object) -> str:
    return inspect.getsource(function)  # type: ignore[arg-type]


def test_what_a_parser_must_offer() -> None:
    """parser.py: a method that vLLM adds needs a decision, because ours would inherit another reading of answers."""
    known = {name for name, value in vars(Parser).items() if callable(value) and not name.startswith("__")}
    assert known == {
        "_initialize_history_tool_call_cnt",
        "adjust_request",
        "set_prompt_token_ids",
        "is_reasoning_end",
        "parse",
        "parse_delta",
        "count_reasoning_tokens",
    }
    for name in ("parse", "parse_delta", "set_prompt_token_ids", "count_reasoning_tokens"):
        assert parameters(getattr(FoldingParser, name)) == parameters(getattr(DelegatingParser, name))
    for name in ("_make_tool_call_id", "_get_function_name"):
        assert callable(getattr(DelegatingParser, name))


def test_the_handlers_read_answers_with_the_parser_only() -> None:
    """answers.py replaces `parser_cls` and `parser`."""
    whole, stream = (
        OpenAIServingChat.chat_completion_full_generator,
        OpenAIServingChat.chat_completion_stream_generator,
    )
    assert "self.parser_cls(" in source(OpenAIServingChat._make_parser)
    for name in ("self._make_parser(", "parser.parse_delta(", "prompt_token_ids=res.prompt_token_ids"):
        assert name in source(stream)
    for name in ("parser.set_prompt_token_ids(", "parser.parse("):
        assert name in source(whole)
    assert "self.parser(" in source(OpenAIServingResponses._make_response_parser)
    responses = source(OpenAIServingResponses)
    assert (
        "response_parser.set_prompt_token_ids(" in responses and "response_parser.parse_delta(" in responses
    )
    assert "parser.parse(" in source(OpenAIServingResponses._make_response_output_items)
    assert "parser_cls(" in source(OpenAIServingChatBatch.chat_completion_full_generator_batch)


def test_whole_answers_pass_the_method_whose_reasons_we_replace() -> None:
    """answers.py"""
    assert parameters(OpenAIServingChat.chat_completion_full_generator)[:3] == [
        "self",
        "request",
        "result_generator",
    ]
    assert (
        "self.chat_completion_full_generator(\n            request,\n            result_generator,"
        in source(OpenAIServingChat._create_chat_completion)
    )
    assert issubclass(AnthropicServingMessages, OpenAIServingChat)
    stream = source(OpenAIServingChat.chat_completion_stream_generator)
    assert "tools_streamed[i]\n                            and not tool_choice_function_name" in stream
    assert 'and output.finish_reason == "stop"' in stream


def test_the_handlers_have_the_names_that_we_look_up() -> None:
    """answers.py"""
    text = source(api_router)
    for name in ("openai_serving_chat", "openai_serving_chat_batch", "openai_serving_responses"):
        assert f"state.{name} = " in text and name in source(answers)
    assert "state.anthropic_serving_messages = " in text


def test_calls_are_written_as_we_read_them() -> None:
    """scanner.py: the tags, and the keys of the grammar that forces a call."""
    assert (Hermes2ProToolParser.tool_call_start_token, Hermes2ProToolParser.tool_call_end_token) == (
        OPEN,
        CLOSE,
    )
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    request = ChatCompletionRequest.model_validate(
        {"model": "m", "messages": [], "tools": [tool], "tool_choice": "required"}
    )
    parser = Hermes2ProToolParser.__new__(Hermes2ProToolParser)
    tag = json.dumps(parser.get_structural_tag(request).model_dump())
    for text in (OPEN, CLOSE, '\\\\\\"name\\\\\\": \\\\\\"f\\\\\\"', '\\\\\\"arguments\\\\\\": '):
        assert text in json.dumps(tag), text


def test_reasoning_parsers_whose_form_we_read() -> None:
    """parser.py, thoughts.py"""
    for name in ("qwen3", "deepseek_r1"):
        found = folding(ParserManager.get_parser("hermes", name, True))
        assert issubclass(found, FoldingParser)
        assert isinstance(found.reasoning_parser_cls.reasoning_start_str, property)
        assert isinstance(found.reasoning_parser_cls.reasoning_end_str, property)
    adapter = ParserManager.get_reasoning_parser("qwen3")
    assert isinstance(adapter.reasoning_end_token_ids, property)


def test_vllm_converts_the_arguments_of_qwen_coder() -> None:
    """function_block.py"""
    assert parameters(_qwen3_arg_converter) == ["raw_args", "partial"]
    assert parameters(ParserEngine._coerce_dict) == ["args", "properties"]
    assert parameters(find_tool_properties) == ["tools", "tool_name"]
    for name in ("qwen3_coder", "qwen3_xml"):
        assert issubclass(folding(ParserManager.get_parser(name, None, True)), FoldingParser)


def test_vllm_drops_arguments_of_the_history_in_silence() -> None:
    """history.py: if vLLM stops doing so, the check can go."""
    assert "parsed = {}" in source(chat_utils._postprocess_messages)
