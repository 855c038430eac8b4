"""The symbols of vLLM 0.32 that we rely on: when an upgrade moves one, the failing test names the file to change."""

from __future__ import annotations

import dataclasses
import inspect
import re
from types import SimpleNamespace
from typing import get_args

import vllm
from vllm.config import DeviceConfig, ParallelConfig, VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.engine.protocol import EngineClient
from vllm.entrypoints.anthropic.protocol import AnthropicContentBlock
from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
from vllm.entrypoints.generate.base.serving import format_token_id_placeholder
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.cli_args import FrontendArgs
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.openai.responses.serving import OpenAIServingResponses
from vllm.entrypoints.serve.engine.protocol import ErrorInfo
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.parser import abstract_parser
from vllm.platforms.cpu import CpuPlatform
from vllm.renderers import base as renderers
from vllm.renderers.base import BaseRenderer
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.tool_parsers import structural_tag_registry as registry
from vllm.tool_parsers.tool_strict_level import ToolStrictLevel
from vllm.utils.async_utils import make_async
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import utils as engine_utils
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.detokenizer import IncrementalDetokenizer
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.engine.output_processor import OutputProcessor, RequestState
from vllm.v1.engine.parallel_sampling import ParentRequest
from vllm.v1.executor.abstract import Executor
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from server.config.engine_settings import ToolStrictLevel as OurLevel
from server.engine import args, handlers
from server.engine.process import fork_server
from server.engine.rendering import messages
from server.request.gate import _TRUSTED_ARGUMENTS, _WHOLE


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_the_version_is_the_one_we_read() -> None:
    assert vllm.__version__.split("+")[0] == "0.32.0"


def test_generate_takes_what_the_gate_passes_on_and_drops() -> None:
    """server/request/gate.py"""
    known = set(parameters(EngineClient.generate))
    assert known == set(parameters(AsyncLLM.generate))
    assert {"prompt", "sampling_params", "request_id"} | _TRUSTED_ARGUMENTS <= known
    dropped = known - _TRUSTED_ARGUMENTS - {"self", "prompt", "sampling_params", "request_id"}
    assert dropped == {"priority", "data_parallel_rank", "session_id", "kv_hints"}, (
        "decide what to do with new ones"
    )


def test_the_prompts_salt_reaches_the_engine() -> None:
    """server/request/gate.py puts it into the prompt."""
    assert 'get("cache_salt")' in inspect.getsource(InputProcessor)


def test_outputs_have_what_the_gate_counts() -> None:
    """server/request/gate.py"""
    for name in ("prompt_token_ids", "num_cached_tokens", "outputs", "metrics"):
        assert name in parameters(RequestOutput.__init__)
    assert {"max_tokens", "n", "extra_args", "output_kind"} <= set(SamplingParams.__struct_fields__)


def test_where_the_tokens_of_whole_answers_are() -> None:
    """server/engine/progress.py; server/request/gate.py asks for it by the name of the output kind."""
    assert RequestOutputKind.FINAL_ONLY.name == _WHOLE
    made = inspect.getsource(OutputProcessor.__init__)
    assert "self.request_states: dict[str, RequestState]" in made
    assert "self.external_req_ids: defaultdict[str, list[str]]" in made
    state = inspect.getsource(RequestState.__init__)
    for name in ("prompt_token_ids", "num_cached_tokens", "detokenizer", "stats", "parent_req"):
        assert f"self.{name} = " in state
    assert "self.output_aggregator = " in inspect.getsource(ParentRequest.__init__)
    assert callable(IncrementalDetokenizer.num_output_tokens)


def test_init_app_state() -> None:
    """server/engine/handlers.py"""
    assert parameters(init_app_state) == ["engine_client", "state", "args", "supported_tasks"]
    source = inspect.getsource(init_app_state)
    read = set(re.findall(r"\bargs\.(\w+)", source))
    known = {field.name for cls in (FrontendArgs, AsyncEngineArgs) for field in dataclasses.fields(cls)}
    missing = read - known
    assert not missing, "init_app_state reads flags that frontend_args does not make"


def test_resident_adapters_are_found_by_name() -> None:
    """server/engine/handlers.py publishes into this dictionary."""
    assert "self.lora_requests: dict[str, LoRARequest]" in inspect.getsource(OpenAIServingModels)
    assert {"lora_name", "lora_int_id", "lora_path", "load_inplace"} <= set(LoRARequest.__struct_fields__)


def test_every_handler_is_there() -> None:
    """server/engine/handlers.py"""
    source = inspect.getsource(handlers) + inspect.getsource(messages)
    for module, cls, method in (
        ("openai.chat_completion.serving", "OpenAIServingChat", "create_chat_completion"),
        ("openai.completion.serving", "OpenAIServingCompletion", "create_completion"),
        ("openai.responses.serving", "OpenAIServingResponses", "create_responses"),
        ("anthropic.serving", "AnthropicServingMessages", "create_messages"),
        ("anthropic.serving", "AnthropicServingMessages", "count_tokens"),
        ("serve.tokenize.serving", "ServingTokenization", "create_tokenize"),
        ("serve.tokenize.serving", "ServingTokenization", "create_detokenize"),
    ):
        found = getattr(__import__(f"vllm.entrypoints.{module}", fromlist=[cls]), cls)
        assert "request" in parameters(getattr(found, method)) and method in source


def test_what_is_replaced_in_the_handler_of_messages_is_looked_up_on_it() -> None:
    """server/engine/rendering/messages.py and thinking.py"""
    create = inspect.getsource(AnthropicServingMessages.create_messages)
    assert "return self.messages_full_converter(generator)" in create
    assert "return self.message_stream_converter(generator)" in create
    assert parameters(AnthropicServingMessages.messages_full_converter) == ["self", "generator"]
    assert parameters(AnthropicServingMessages._render_probe_prompt) == ["self", "effort"]
    kinds = set(get_args(AnthropicContentBlock.model_fields["type"].annotation))
    assert kinds == messages._IN_MESSAGE | messages._IN_SYSTEM_MESSAGE | {messages._PICTURE}, (
        "decide where new types may be"
    )


def test_logprobs_are_made_by_functions_that_we_wrap() -> None:
    """server/engine/rendering/token_bytes.py"""
    for create, lists in (
        (OpenAIServingChat._create_chat_logprobs, "top_logprobs"),
        (OpenAIServingCompletion._create_completion_logprobs, "top_logprobs"),
        (OpenAIServingResponses._create_response_logprobs, "logprobs"),
    ):
        assert {"token_ids", lists, "tokenizer"} <= set(parameters(create))
    assert 'return f"token_id:{token_id}"' in inspect.getsource(format_token_id_placeholder)


def test_tools_become_tags_through_the_names_we_replace() -> None:
    """server/engine/decoding/tool_schemas.py and grammars/prepared_grammar.py"""
    assert parameters(registry.resolve_tool_strictness) == ["tools", "tool_choice", "strict_level"]
    assert parameters(registry.get_function_parameters) == ["function"]
    assert parameters(registry._with_tool_strict) == ["tool", "strict"]
    applied = inspect.getsource(abstract_parser.DelegatingParser._apply_structural_tag)
    for name in ("resolve_tool_strictness(", "_xgrammar_supports(", "structured_outputs_to_format("):
        assert name in applied
    assert "tools = resolve_tool_strictness(" in inspect.getsource(registry.get_model_structural_tag)
    assert "get_function_parameters(tool.function)" in inspect.getsource(registry._hermes_tool_tags)
    levels = {"forced", *(level.name.lower() for level in ToolStrictLevel)}
    assert levels == set(get_args(OurLevel)), "server/config/settings.py has vLLM's levels and our own"


def test_errors_in_streams_look_as_we_parse_them() -> None:
    """server/api/errors.py: event_failure"""
    assert list(ErrorInfo.model_fields) == ["message", "type", "param", "code"]
    assert ErrorInfo.model_fields["code"].annotation is int


def test_enginecore_is_made_through_the_name_we_replace() -> None:
    """server/engine/process/fork_server.py"""
    assert callable(engine_utils.get_mp_context)
    assert "context = get_mp_context()" in inspect.getsource(engine_utils)


def test_the_model_may_run_in_enginecore_under_a_name_of_ours() -> None:
    """server/engine/process/executor.py: the CPU platform turns "uni" into "mp" and keeps other names."""
    config = ParallelConfig(distributed_executor_backend=fork_server.EXECUTOR)
    CpuPlatform.check_and_update_config(VllmConfig(parallel_config=config, device_config=DeviceConfig("cpu")))
    found = Executor.get_class(SimpleNamespace(parallel_config=config))
    assert issubclass(found, UniProcExecutor) and found.__name__ == "InPlaceExecutor"
    assert parameters(found.execute_model) == parameters(UniProcExecutor.execute_model)


def test_streams_are_written_where_handlers_call_their_generators() -> None:
    """server/engine/rendering/streams/direct.py: what the generators get, and where."""
    chat = OpenAIServingChat.chat_completion_stream_generator
    assert parameters(chat)[1:5] == ["request", "result_generator", "request_id", "model_name"]
    assert "self.chat_completion_stream_generator(" in inspect.getsource(
        OpenAIServingChat._create_chat_completion
    )
    completion = OpenAIServingCompletion.completion_stream_generator
    assert parameters(completion)[1:7] == [
        "request",
        "engine_inputs",
        "result_generator",
        "request_id",
        "created_time",
        "model_name",
    ]
    called = inspect.getsource(OpenAIServingCompletion._create_completion)
    assert "self.completion_stream_generator(" in called and "num_prompts=num_prompts" in called


def test_the_renderer_works_in_an_executor_of_its_own() -> None:
    """server/engine/rendering/prompt_turns.py: `submit` is looked up at each call."""
    assert "executor=self._executor" in inspect.getsource(BaseRenderer.__init__)
    assert "loop.run_in_executor(executor=executor" in inspect.getsource(make_async)


def test_the_renderer_gathers_its_steps_through_its_module() -> None:
    """server/engine/rendering/prompt_turns.py replaces `asyncio` in it."""
    used = set(re.findall(r"asyncio\.(\w+)", inspect.getsource(renderers)))
    assert used == {"gather", "sleep"}
    assert "return_exceptions" not in inspect.getsource(renderers)


def test_new_tokens_are_counted_where_the_scheduler_looks_its_method_up() -> None:
    """server/engine/scheduling/scheduler.py: an attribute of the object hides the class's method."""
    assert "self._update_request_with_output(" in inspect.getsource(Scheduler.update_from_output)
    assert parameters(Scheduler._update_request_with_output) == [
        "self",
        "request",
        "new_token_ids",
        "is_stale",
    ]


def test_adapters_are_really_loaded_and_removed() -> None:
    """server/engine/runtime.py"""
    assert parameters(AsyncLLM.add_lora) == ["self", "lora_request"]
    assert parameters(AsyncLLM.remove_lora) == ["self", "lora_id"]
    assert parameters(AsyncLLM.list_loras) == ["self"]
    assert isinstance(AsyncLLM.errored, property)


def test_engine_arguments_that_we_set_exist() -> None:
    """server/engine/args.py"""
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    assert known >= args._FLAGS | args._OURS
