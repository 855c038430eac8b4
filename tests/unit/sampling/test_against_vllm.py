"""Our table and definitions against vLLM itself. The only file here that imports it (about 10 s)."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from example_counts import examples
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sampling.defaults import Layer
from sampling.endpoints import Endpoint
from sampling.errors import InvalidParameter
from sampling.limits import NO_LIMITS
from sampling.options import MAX_LOGPROB_TOKEN_IDS, MAX_N, MAX_STOP_STRINGS, OPTIONS
from sampling.presets import Presets
from sampling.repetition_detector import RepetitionDetector, Thresholds
from sampling.resolution import NO_DEFAULTS, resolve
from sampling.validation import LENGTH_NAMES, effective_name, options_on, validate
from sampling.value_types import INT64_MAX, INT64_MIN, Integer, Number
from tests.unit.sampling import reference
from tests.unit.sampling.reference import Counts, Decoding

# Fields of vLLM's requests that are no decoding options. A field that is in neither list is new in vLLM.
# fmt: off
OTHER_FIELDS = {
    "messages", "model", "prompt", "input", "instructions", "system", "stream", "stream_options", "user",
    "metadata", "service_tier", "store", "background", "include", "max_tool_calls",
    "previous_response_id", "reasoning", "truncation", "prompt_cache_key", "thinking", "output_config",
    "echo", "suffix", "prompt_embeds", "add_generation_prompt", "continue_final_message",
    "add_special_tokens", "documents", "chat_template", "media_io_kwargs", "mm_processor_kwargs",
    "mm_payload", "return_mm_kwargs", "priority", "request_id", "session_id",
    "return_tokens_as_token_ids", "return_token_ids", "return_token_offsets", "return_prompt_text",
    "routed_experts_prompt_start", "cache_salt", "kv_transfer_params", "ec_transfer_params",
    "vllm_xargs", "stream_interval", "include_reasoning", "watermarking", "enable_response_messages",
    "previous_input_messages",
}
# fmt: on
NEEDED = {
    Endpoint.CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    Endpoint.COMPLETIONS: {"prompt": "hi"},
    Endpoint.RESPONSES: {"input": "hi"},
    Endpoint.MESSAGES: {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5},
}


@pytest.fixture(scope="session")
def vllm() -> SimpleNamespace:
    import torch
    from vllm import envs, sampling_params
    from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.exceptions import VLLMValidationError
    from vllm.model_executor.layers.utils import apply_penalties
    from vllm.v1.core.sched.utils import check_sequence_repetition
    from vllm.v1.sample.logits_processor.builtin import MinPLogitsProcessor
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

    models = {
        Endpoint.CHAT: ChatCompletionRequest,
        Endpoint.COMPLETIONS: CompletionRequest,
        Endpoint.RESPONSES: ResponsesRequest,
        Endpoint.MESSAGES: AnthropicMessagesRequest,
    }
    return SimpleNamespace(
        torch=torch,
        envs=envs,
        params=sampling_params,
        models=models,
        errors=(ValueError, VLLMValidationError),
        apply_penalties=apply_penalties,
        apply_top_k_top_p=apply_top_k_top_p_pytorch,
        min_p_processor=MinPLogitsProcessor,
        check_sequence_repetition=check_sequence_repetition,
    )


def parse(vllm, endpoint, body):
    """The body as vLLM's SamplingParams, as its handler makes them (without the prompt's length)."""
    request = vllm.models[endpoint].model_validate(NEEDED[endpoint] | body)
    name = effective_name(LENGTH_NAMES[endpoint], request.__dict__)
    most = request.__dict__[name] if name else INT64_MAX
    if endpoint is Endpoint.MESSAGES:
        same = {"temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k}
        chat = {"stop": request.stop_sequences, "max_completion_tokens": request.max_tokens} | same
        return parse(vllm, Endpoint.CHAT, chat)
    return request.to_sampling_params(most, {})


def test_names_are_those_of_vllms_requests(vllm):
    for endpoint, model in vllm.models.items():
        ours = set(options_on(endpoint)) - {"preset", "repetition"}
        theirs = set(model.model_fields)
        assert ours <= theirs, endpoint
        assert theirs - ours <= OTHER_FIELDS, endpoint


def test_constants_are_those_of_vllm(vllm):
    assert vllm.envs.VLLM_MAX_N_SEQUENCES == MAX_N
    assert vllm.envs.VLLM_MAX_STOP_STRINGS == MAX_STOP_STRINGS
    assert vllm.params.MAX_LOGPROB_TOKEN_IDS == MAX_LOGPROB_TOKEN_IDS


def test_defaults_are_those_of_vllm(vllm):
    for endpoint in set(Endpoint) - {Endpoint.MESSAGES}:
        params = parse(vllm, endpoint, {})
        for option in OPTIONS:
            if endpoint not in option.endpoints or not hasattr(params, option.name):
                continue
            if option.name in ("max_tokens", "logprobs"):  # these are no plain defaults: see the table
                continue
            expected = [] if option.default == () else option.default
            assert getattr(params, option.name) == expected, (endpoint, option.name)
    request = vllm.models[Endpoint.CHAT].model_validate(NEEDED[Endpoint.CHAT])
    for name in ("use_beam_search", "length_penalty", "parallel_tool_calls", "logprobs", "top_logprobs", "n"):
        assert getattr(request, name) == options_on(Endpoint.CHAT)[name].default


NUMERIC = [
    (endpoint, name, option)
    for endpoint in Endpoint
    for name, option in options_on(endpoint).items()
    if isinstance(option.kind, Number | Integer) and name != "length_penalty"
]
EDGES = [-2, -1, 0, 1, 2, 4, 16384, 16385, 1.5, -1.5, 0.005, -0.0, 2.0001, 1e308, 5e-324]
EDGES += [float("nan"), float("inf"), float("-inf"), INT64_MAX, INT64_MIN]
numbers = st.one_of(
    st.sampled_from(EDGES),
    st.integers(INT64_MIN, INT64_MAX),
    st.integers(-5, 30),
    st.floats(),
    st.floats(-3, 3),
)
BESIDE = {
    (Endpoint.CHAT, "top_logprobs"): {"logprobs": True},
    (Endpoint.RESPONSES, "top_logprobs"): {"include": ["message.output_text.logprobs"]},
    (Endpoint.COMPLETIONS, "min_tokens"): {"max_tokens": INT64_MAX},
}


@pytest.mark.parametrize(
    ("endpoint", "name", "option"), NUMERIC, ids=lambda part: getattr(part, "value", None)
)
@settings(deadline=None, max_examples=examples(60))
@given(value=numbers)
def test_accepts_the_numbers_that_vllm_accepts(vllm, endpoint, name, option, value):
    if isinstance(option.kind, Integer):
        # Beyond 2**53 a float is no longer the integer it was written as; and this one field takes no floats.
        assume(not isinstance(value, float) or (abs(value) < 2**53 and name != "thinking_token_budget"))
    try:
        parse(vllm, endpoint, {name: value} | BESIDE.get((endpoint, name), {}))
        theirs = True
    except vllm.errors:
        theirs = False
    try:
        validate({name: value}, endpoint)
        ours = True
    except InvalidParameter:
        ours = False
    assert ours == theirs


def test_where_we_are_stricter_on_purpose(vllm):
    """The docs name these: each is accepted by vLLM, which then does something else than was asked."""
    for body in [{"temperature": "0.5"}, {"n": True}, {"logit_bias": {"5": 101}}, {"ignore_eos": "yes"}]:
        parse(vllm, Endpoint.CHAT, body)
        with pytest.raises(InvalidParameter):
            validate(body, Endpoint.CHAT)
    assert parse(vllm, Endpoint.CHAT, {"logit_bias": {"5": 101}}).logit_bias == {5: 100.0}
    pattern = {"repetition_detection": {"max_pattern_size": 10**6, "min_count": 2}}
    parse(vllm, Endpoint.CHAT, pattern)
    with pytest.raises(InvalidParameter):
        validate(pattern, Endpoint.CHAT)


def test_the_lowest_temperature_is_vllms(vllm):
    outcome = resolve_chat({"temperature": 0.005})
    assert outcome.body["temperature"] == vllm.params.SamplingParams(temperature=0.005).temperature
    assert vllm.params.SamplingParams(temperature=0.01).temperature == 0.01


def resolve_chat(body, endpoint=Endpoint.CHAT, **layers):
    nothing = dict.fromkeys(("server", "adapter", "tenant"), NO_DEFAULTS)
    rest = {"presets": Presets(), "preset_header": None, "limits": NO_LIMITS}
    return resolve(body, endpoint=endpoint, **(nothing | rest | layers))


fields = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0.01, 2),
        "top_p": st.floats(0.1, 1),
        "top_k": st.integers(0, 50),
        "max_tokens": st.integers(1, 999),
        "stop": st.lists(st.text("ab", min_size=1, max_size=2), max_size=2),
    },
)


@settings(deadline=None)
@given(
    server=fields, tenant=fields, endpoint=st.sampled_from(Endpoint), preset=st.none() | st.just("creative")
)
def test_a_resolved_body_means_to_vllm_what_the_layers_say(vllm, server, tenant, endpoint, preset):
    outcome = resolve_chat(
        NEEDED[endpoint] | {"preset": preset},
        endpoint,
        server=Layer("server", server),
        tenant=Layer("tenant", tenant),
    )
    expected = server | tenant | (dict(Presets().find(preset).defaults) if preset else {})
    expected.pop("repetition_penalty", None)
    if endpoint is Endpoint.MESSAGES:
        expected["max_tokens"] = NEEDED[endpoint]["max_tokens"]
    params = parse(vllm, endpoint, outcome.body)
    for name, value in expected.items():
        assert getattr(params, name) == value, name


VOCABULARY = 12
tokens = st.lists(st.integers(0, VOCABULARY - 1), max_size=8)


@settings(deadline=None, max_examples=examples(200))
@given(
    logits=st.lists(st.floats(-8, 8, width=32), min_size=VOCABULARY, max_size=VOCABULARY, unique=True),
    prompt=tokens,
    answer=tokens,
    params=st.builds(
        Decoding,
        temperature=st.floats(0.1, 2),
        top_p=st.floats(0.05, 1),
        top_k=st.integers(0, VOCABULARY + 3),
        min_p=st.floats(0, 0.9),
        repetition_penalty=st.floats(0.5, 2),
        frequency_penalty=st.floats(-2, 2),
        presence_penalty=st.floats(-2, 2),
    ),
)
def test_the_reference_is_what_vllms_sampler_draws_from(vllm, logits, prompt, answer, params):
    ours = reference.probabilities(np.array(logits), counts(prompt, answer), params)
    assume(far_from_a_border(np.array(logits), counts(prompt, answer), params))
    assert ours == pytest.approx(drawn_by_vllm(vllm, logits, prompt, answer, params), abs=2e-4)


def counts(prompt, answer) -> Counts:
    return Counts(*(np.bincount(np.array(ids, dtype=int), minlength=VOCABULARY) for ids in (prompt, answer)))


def far_from_a_border(logits, seen, params) -> bool:
    """Whether no token is so near a threshold that float32 could decide otherwise than float64.

    Of equally likely tokens on both sides of top_p's cut, either may be the one that is kept.
    """
    drawn = reference.probabilities(logits, seen, replace(params, top_p=1.0, top_k=0, min_p=0.0))
    if np.min(np.diff(np.sort(drawn))) < 1e-5 and 0 < params.top_k < VOCABULARY:
        return False
    if np.any(np.abs(drawn - params.min_p * drawn.max()) < 1e-5) and params.min_p > 0:
        return False
    cut = np.sort(reference.top_k(reference.min_p(drawn, params.min_p), params.top_k))[::-1]
    total = np.cumsum(cut)
    last = int(np.searchsorted(total, params.top_p))  # the last token that top_p keeps
    if last + 1 < len(cut) and cut[last + 1] > 0 and cut[last] - cut[last + 1] < 1e-5:
        return False
    return not np.any(np.abs(total - params.top_p) < 1e-4)


def drawn_by_vllm(vllm, logits, prompt, answer, params):
    """Through vLLM's own functions, in the order of its Sampler."""
    tensor, options = vllm.torch.tensor, params
    row = tensor([logits], dtype=vllm.torch.float32)
    ids = [tensor([[*ids, VOCABULARY]]) for ids in (prompt, answer)]
    penalties = (options.presence_penalty, options.frequency_penalty, options.repetition_penalty)
    row = vllm.apply_penalties(row, *ids, *(tensor([value]) for value in penalties)) / options.temperature
    config = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=1))
    processor = vllm.min_p_processor(config, vllm.torch.device("cpu"), False)
    added = [(0, SimpleNamespace(min_p=options.min_p), None, [])]
    processor.update_state(SimpleNamespace(added=added, removed=[], moved=[], batch_size=1))
    row = processor.apply(row)
    top_k = tensor([options.top_k if 0 < options.top_k < VOCABULARY else VOCABULARY])
    row = vllm.apply_top_k_top_p(row, top_k, tensor([options.top_p]), allow_cpu_sync=True)
    return row.softmax(dim=-1)[0].double().numpy()


def watched(stream) -> RepetitionDetector:
    detector = RepetitionDetector(Thresholds())
    for token in stream:
        detector.push(token)
    return detector


@settings(deadline=None, max_examples=examples(20))
@given(pattern=st.lists(st.integers(1, 50), min_size=1, max_size=16))
def test_both_detectors_see_a_hard_loop_and_only_ours_one_with_a_counter(vllm, pattern):
    rule = vllm.params.RepetitionDetectionParams(max_pattern_size=32, min_count=3)
    hard = pattern * 150
    assert vllm.check_sequence_repetition(hard, rule)
    assert watched(hard).verdict == "ngrams"
    counted = [token for i in range(30) for token in (*range(1, 16), 1000 + i)]
    assert not vllm.check_sequence_repetition(counted, rule)
    assert watched(counted).verdict == "ngrams"
