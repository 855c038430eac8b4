"""The table of all decoding options.

Names, ranges and defaults are those of vLLM 0.32: `vllm.sampling_params.SamplingParams._verify_args` and the
request models `ChatCompletionRequest`, `CompletionRequest`, `ResponsesRequest`, `AnthropicMessagesRequest`
(`vllm.entrypoints.{openai,anthropic}`). `tests/unit/sampling/test_against_vllm.py` compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from sampling.endpoints import Endpoint
from sampling.value_types import (
    FLOAT_MAX,
    Boolean,
    Integer,
    Kind,
    Number,
    OneOf,
    PatternRule,
    Strings,
    Structure,
    TokenBias,
    TokenIds,
)

# The defaults of vLLM's VLLM_MAX_N_SEQUENCES, VLLM_MAX_STOP_STRINGS and MAX_LOGPROB_TOKEN_IDS.
MAX_N: Final = 16384
MAX_STOP_STRINGS: Final = 4
MAX_LOGPROB_TOKEN_IDS: Final = 128

COMPLETIONS_MAX_TOKENS: Final = 16
"""The default of `max_tokens` on /v1/completions; on other endpoints it is the rest of the context."""

LOWEST_TEMPERATURE: Final = 0.01
"""The engine raises a temperature between 0 and this value to this value (`vllm.sampling_params._MAX_TEMP`)."""

Source = Literal["OpenAI", "vLLM", "loragate"]


@dataclass(frozen=True, slots=True)
class Option:
    """One decoding option, for the endpoints on which it has this meaning and kind."""

    name: str
    """The name that layers and presets use."""
    kind: Kind
    endpoints: frozenset[Endpoint]
    source: Source
    meaning: str
    default: Any = None
    """The value when no layer sets it. None: no value, or as described in the meaning."""
    layered: bool = True
    """Whether server, adapter, tenant and preset may set it; otherwise only a request may."""
    form: bool = False
    """Whether it sets the answer's format: a lower layer's format is ignored when a higher layer sets one."""
    spelled: Mapping[Endpoint, tuple[str, ...]] = field(default_factory=dict)
    """Its names where they differ from `name`. vLLM prefers the first name, and defaults use it."""

    def names(self, endpoint: Endpoint) -> tuple[str, ...]:
        """The option's names on this endpoint, the one vLLM prefers first; empty when it is not supported."""
        if endpoint not in self.endpoints:
            return ()
        return self.spelled.get(endpoint, (self.name,))


_CHAT, _COMPLETIONS, _RESPONSES, _MESSAGES = Endpoint
_ALL = frozenset(Endpoint)
_OPENAI = _ALL - {_MESSAGES}
_CLASSIC = frozenset({_CHAT, _COMPLETIONS})
_TOOLED = _ALL - {_COMPLETIONS}
_OPENAI_TOOLED = _TOOLED - {_MESSAGES}
_POSITIVE = Number(0, FLOAT_MAX, open_low=True)
_COUNT_OF_LOGPROBS = Integer(-1, special="-1 for the whole vocabulary")
_EFFORTS = OneOf(("none", "minimal", "low", "medium", "high", "xhigh", "max"))
_LENGTH_NAMES = {_CHAT: ("max_completion_tokens", "max_tokens"), _RESPONSES: ("max_output_tokens",)}
_FORMATS = "text, json_object, json_schema"
_CONSTRAINTS = "one of json, regex, choice, grammar, json_object, structural_tag"
_CHOICES = "none, auto, required, one function, or allowed_tools"

# fmt: off
OPTIONS: Final[tuple[Option, ...]] = (
    # How the next token is sampled.
    Option("temperature", Number(0, 2), _ALL, "OpenAI",
           "divides the logits; 0 is greedy; a value between 0 and 0.01 becomes 0.01 and is reported", 1.0),
    Option("top_p", Number(0, 1, open_low=True), _ALL, "OpenAI",
           "keeps the smallest set of most likely tokens whose probabilities sum to at least this", 1.0),
    Option("top_k", Integer(-1, special="0 or -1 for all tokens"), _ALL, "vLLM",
           "keeps the k most likely tokens; 0 or -1 keeps all", 0),
    Option("min_p", Number(0, 1), _OPENAI, "vLLM",
           "drops tokens whose probability is below this share of the most likely token's", 0.0),
    Option("repetition_penalty", _POSITIVE, _OPENAI, "vLLM",
           "divides positive and multiplies negative logits of tokens in the prompt or answer", 1.0),
    Option("frequency_penalty", Number(-2, 2), _OPENAI, "OpenAI",
           "is subtracted from a token's logit once per occurrence in the answer", 0.0),
    Option("presence_penalty", Number(-2, 2), _OPENAI, "OpenAI",
           "is subtracted once from a token's logit if it occurs in the answer", 0.0),
    Option("seed", Integer(), _OPENAI, "OpenAI", "makes sampling repeatable; -1 means no seed"),
    Option("n", Integer(1, MAX_N), _CLASSIC, "OpenAI",
           "number of answers per prompt; must be 1 for greedy decoding", 1, layered=False),
    Option("use_beam_search", Boolean(), _CLASSIC, "vLLM",
           "uses beam search of width n instead of sampling", False, layered=False),
    Option("length_penalty", Number(-FLOAT_MAX, FLOAT_MAX), _CLASSIC, "vLLM",
           "for beam search: scores are divided by the length to this power", 1.0, layered=False),
    # Which tokens are allowed.
    Option("logit_bias", TokenBias(), _OPENAI, "OpenAI", "is added to the logits of the given token ids"),
    Option("allowed_token_ids", TokenIds(min_items=1), _CLASSIC, "vLLM", "allows only these tokens"),
    Option("bad_words", Strings(), _CLASSIC, "vLLM", "texts that must not occur in the answer", ()),
    # How long the answer is.
    Option("max_tokens", Integer(1), _ALL, "OpenAI",
           "maximum tokens of the answer; default: the rest of the context, on completions 16",
           spelled=_LENGTH_NAMES),
    Option("min_tokens", Integer(0), _CLASSIC, "vLLM", "minimum tokens of the answer", 0),
    Option("stop", Strings(or_string=True, max_items=MAX_STOP_STRINGS), _OPENAI, "OpenAI",
           "texts that end the answer", ()),
    Option("stop", Strings(max_items=MAX_STOP_STRINGS), frozenset({_MESSAGES}), "OpenAI",
           "texts that end the answer", spelled={_MESSAGES: ("stop_sequences",)}),
    Option("stop_token_ids", TokenIds(), _OPENAI, "vLLM",
           "tokens that end the answer, in addition to the model's own", ()),
    Option("include_stop_str_in_output", Boolean(), _OPENAI, "vLLM",
           "keeps the stop text in the answer", False),
    Option("ignore_eos", Boolean(), _OPENAI, "vLLM", "continues after the model's end token", False),
    Option("repetition_detection", PatternRule(), _CLASSIC, "vLLM",
           "ends the answer when its tail repeats one pattern min_count times"),
    Option("repetition", OneOf(("off", "stop", "adjust")), _ALL, "loragate",
           "reaction to a repetition loop: stop the answer, or adjust penalty and temperature", "off"),
    Option("truncate_prompt_tokens", Integer(-1, special="-1 for the context length"), _CLASSIC, "vLLM",
           "shortens a longer prompt to this many tokens; without it a long prompt is an error", layered=False),
    Option("truncation_side", OneOf(("left", "right")), _CLASSIC, "vLLM",
           "the side of the prompt that is cut: left keeps the last tokens, right the first", layered=False),
    Option("thinking_token_budget", Integer(-1, special="-1 for no budget"), _CLASSIC, "vLLM",
           "maximum number of reasoning tokens"),
    Option("reasoning_effort", _EFFORTS, frozenset({_CHAT}), "OpenAI",
           "is passed to the chat template; none disables reasoning"),
    # What the response contains.
    Option("logprobs", Boolean(), frozenset({_CHAT}), "OpenAI",
           "returns the log-probability of each token", False, layered=False),
    Option("logprobs", _COUNT_OF_LOGPROBS, frozenset({_COMPLETIONS}), "OpenAI",
           "returns the log-probabilities of this many tokens at each position", layered=False),
    Option("top_logprobs", _COUNT_OF_LOGPROBS, frozenset({_CHAT, _RESPONSES}), "OpenAI",
           "the same for these two APIs; on chat it needs logprobs", 0, layered=False),
    Option("prompt_logprobs", _COUNT_OF_LOGPROBS, _CLASSIC, "vLLM",
           "the same for the tokens of the prompt; not with streaming", layered=False),
    Option("logprob_token_ids", TokenIds(max_items=MAX_LOGPROB_TOKEN_IDS), _CLASSIC, "vLLM",
           "the same for exactly these tokens; it needs logprobs", layered=False),
    Option("skip_special_tokens", Boolean(), _OPENAI, "vLLM", "omits special tokens from the text", True),
    Option("spaces_between_special_tokens", Boolean(), _CLASSIC, "vLLM",
           "puts spaces between special tokens", True),
    # Which format the answer has.
    Option("response_format", Structure("object", (dict,), f"{_FORMATS}, structural_tag"), _CLASSIC, "OpenAI",
           "makes the answer JSON, with a schema if one is given", form=True),
    Option("text", Structure("object", (dict,), f"format: {_FORMATS}"), frozenset({_RESPONSES}), "OpenAI",
           "the same in the Responses API", form=True),
    Option("structured_outputs", Structure("object", (dict,), _CONSTRAINTS), _OPENAI, "vLLM",
           "makes the answer match a schema, a regular expression, a list or a grammar", form=True),
    Option("tools", Structure("array", (list,), "function definitions"), _TOOLED, "OpenAI",
           "functions that the model may call", layered=False, form=True),
    Option("tool_choice", Structure("string or object", (str, dict), _CHOICES), _OPENAI_TOOLED, "OpenAI",
           "which function is called, if any; default: auto when there are tools", layered=False),
    Option("tool_choice", Structure("object", (dict,), "type: auto, any, tool, none"), frozenset({_MESSAGES}),
           "OpenAI", "which function is called, if any", layered=False),
    Option("parallel_tool_calls", Boolean(), _OPENAI_TOOLED, "OpenAI", "allows several calls in one answer", True),
    Option("chat_template_kwargs", Structure("object", (dict,), "the template's own"), _TOOLED, "vLLM",
           "is passed to the chat template, for example enable_thinking"),
    Option("preset", Structure("string", (str,), "a preset's name"), _ALL, "loragate",
           "a named set of defaults; the header x-loragate-preset does the same", layered=False),
)
# fmt: on
