"""vLLM's parser of answers, with one way to read an answer: a whole one is a stream of one piece.

vLLM has two readers in each tool parser, for whole answers and for streams, and they differ: where the answer is cut
within a call, the first leaves the tags in the content and the second sends half a call. Here one scanner reads both.
A call is sent when it is complete, not in pieces: what has been sent cannot be taken back when the answer is cut.

Leans on (vLLM 0.32): vllm.parser.abstract_parser.DelegatingParser (`parse`, `parse_delta`, `set_prompt_token_ids`,
`is_reasoning_end`, `count_reasoning_tokens`, `_make_tool_call_id`, `_get_function_name`, `_reasoning_parser`,
`_tool_parser`), Hermes2ProToolParser, Qwen3ParserToolAdapter, Qwen3ParserReasoningAdapter, DeepSeekR1ReasoningParser,
make_tool_call_id, record_tool_parser_invocation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from openai.types.responses import ToolChoiceCustom, ToolChoiceFunction
from vllm.entrypoints.generate.base.protocol import (
    DeltaFunctionCall,
    DeltaMessage,
    DeltaToolCall,
    FunctionCall,
)
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionNamedToolChoiceParam
from vllm.parser.abstract_parser import DelegatingParser, Parser
from vllm.parser.engine.registered_adapters import Qwen3ParserReasoningAdapter, Qwen3ParserToolAdapter
from vllm.parser.metrics import record_tool_parser_invocation
from vllm.reasoning.deepseek_r1_reasoning_parser import DeepSeekR1ReasoningParser
from vllm.renderers.chat_utils import make_tool_call_id
from vllm.tool_parsers.hermes_tool_parser import Hermes2ProToolParser

from server.engine.decoding.tool_calls.calls import Call, Found
from server.engine.decoding.tool_calls.forms import HERMES, OPEN, Form
from server.engine.decoding.tool_calls.function_block import qwen_coder_form
from server.engine.decoding.tool_calls.scanner import ForcedScanner, TaggedScanner
from server.engine.decoding.tool_calls.text_after_calls import collect
from server.engine.decoding.tool_calls.thoughts import ThoughtScanner
from server.request.event_loop import pause

_NAMED = (ChatCompletionNamedToolChoiceParam, ToolChoiceFunction, ToolChoiceCustom)
_TOOLS = (Hermes2ProToolParser, Qwen3ParserToolAdapter)
_REASONING = (Qwen3ParserReasoningAdapter, DeepSeekR1ReasoningParser)
#: Characters of a whole answer that are read between two pauses of the event loop: at most 10 ms, if all are tags.
SLICE: Final = 8192
#: Calls of one answer; what follows them is dropped. vLLM builds and writes all of a whole answer's in one piece.
MAX_CALLS: Final = 512


def folding(parser: type[Parser] | None) -> type[Parser]:
    """The parser class with one way to read an answer; also for a server without any parser.

    A model whose calls or thoughts have another form keeps vLLM's parser as it is.
    """
    if parser is None:
        return FoldingParser
    tools, reasoning = parser.tool_parser_cls, parser.reasoning_parser_cls
    if (
        not issubclass(parser, DelegatingParser)
        or (tools is not None and not issubclass(tools, _TOOLS))
        or (reasoning is not None and not issubclass(reasoning, _REASONING))
    ):
        return parser
    return type("FoldingParser", (FoldingParser, parser), {})


class FoldingParser(DelegatingParser):
    """Reads a whole answer as a stream of one piece; one object reads one answer."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._prompt_ids: list[int] = []
        self._thoughts: ThoughtScanner | None = None
        self._thought_tokens: int | None = None
        self._counting = False
        self._scanner: TaggedScanner | ForcedScanner | None = None
        self._lead = ""  # white space before the scanner is chosen
        self._started = False
        self._calls = 0
        self._whole = False
        self._ahead: DeltaMessage | None = None
        self._after = ""  # the text after the calls of a whole answer

    def set_prompt_token_ids(self, prompt_token_ids: Sequence[int]) -> None:
        """See `Parser`."""
        self._prompt_ids = prompt_token_ids if isinstance(prompt_token_ids, list) else list(prompt_token_ids)

    async def read_ahead(self, text: str, request: Any, token_ids: Sequence[int]) -> None:
        """Read a whole answer in slices, with a pause for the event loop after each; `parse` then returns it."""
        self._whole = True
        slices = []
        for begin in range(0, len(text) or 1, SLICE):
            end = begin + SLICE
            ids = [] if begin else list(token_ids)
            delta = self.parse_delta(
                text[begin:end], ids, request, self._prompt_ids, finished=end >= len(text)
            )
            slices.append(delta or DeltaMessage())
            await pause()
        self._ahead = DeltaMessage(
            reasoning="".join(each.reasoning or "" for each in slices) or None,
            content="".join(each.content or "" for each in slices) or None,
            tool_calls=[call for each in slices for call in each.tool_calls],
        )

    def parse(
        self,
        model_output: str,
        request: Any,
        enable_auto_tools: bool = False,
        model_output_token_ids: Sequence[int] = (),
    ) -> tuple[str | None, str | None, list[FunctionCall] | None]:
        """See `Parser`."""
        self._whole = True
        delta = self._ahead or DeltaMessage()
        if self._ahead is None:
            ids = list(model_output_token_ids)
            delta = self.parse_delta(model_output, ids, request, self._prompt_ids, finished=True) or delta
        calls = [
            FunctionCall(id=call.id, name=call.function.name or "", arguments=call.function.arguments or "")
            for call in delta.tool_calls
            if call.function is not None
        ]
        after = "" if collect(self._after) else self._after
        content = f"{delta.content or ''}{after}"
        return delta.reasoning, content or (None if calls else ""), calls or None

    def parse_delta(
        self,
        delta_text: str,
        delta_token_ids: list[int],
        request: Any,
        prompt_token_ids: list[int] | None = None,
        *,
        finished: bool,
    ) -> DeltaMessage | None:
        """See `Parser`. A delta without anything says that a call is being written."""
        if not self._started:
            self._started = True
            self._initialize_history_tool_call_cnt(request)
            self._begin(request, prompt_token_ids or [])
        self._count(delta_token_ids)
        thoughts, text = self._thoughts.feed(delta_text) if self._thoughts else ("", delta_text)
        if finished and self._thoughts:
            thoughts += self._thoughts.finish()
        found = self._read(text, request, finished)
        delta = self._delta(thoughts if request.include_reasoning else "", found)
        if delta is None and self._scanner is not None and self._scanner.in_call:
            return DeltaMessage()
        return delta

    def count_reasoning_tokens(self, token_ids: Sequence[int]) -> int:
        """See `Parser`."""
        if self._thought_tokens is not None:
            return self._thought_tokens
        return int(super().count_reasoning_tokens(token_ids))

    def _begin(self, request: Any, prompt_ids: list[int]) -> None:
        reasoning: Any = self._reasoning_parser
        if reasoning is None:
            return
        is_qwen = isinstance(reasoning, Qwen3ParserReasoningAdapter)
        self._thought_tokens = 0 if is_qwen else None
        if not self.is_reasoning_end(prompt_ids):
            ends = [OPEN] if is_qwen and request.tools else []
            self._counting = is_qwen
            self._thoughts = ThoughtScanner(reasoning.reasoning_start_str, reasoning.reasoning_end_str, ends)

    def _count(self, token_ids: list[int]) -> None:
        """Count the tokens of thoughts where vLLM would parse the answer again for each piece."""
        reasoning: Any = self._reasoning_parser
        for token in token_ids if self._counting else ():
            if token in reasoning.reasoning_end_token_ids:
                self._counting = False
                break
            self._thought_tokens = (self._thought_tokens or 0) + 1

    def _read(self, text: str, request: Any, finished: bool) -> Found:
        """The content and the calls of the next piece of the answer proper."""
        if self._tool_parser is None or not request.tools:
            return Found(text)
        found = self._scan(text, request)
        if finished and self._scanner is not None:
            rest = self._scanner.finish()
            if self._whole:
                self._after = rest.after  # `parse` knows where it belongs
            after = "" if self._whole else rest.after
            found = Found(found.content + rest.content + after, [*found.calls, *rest.calls])
        if finished or not self._whole:
            record_tool_parser_invocation(
                is_tool_called=bool(found.calls or (self._whole and self._calls)),
                is_streaming=not self._whole,
                request=request,
            )
        return found

    def _scan(self, text: str, request: Any) -> Found:
        if self._scanner is None:
            self._lead += text
            self._scanner, text = self._choose(request, self._lead.lstrip()[:1]), self._lead
        return Found() if self._scanner is None else self._scanner.feed(text)

    def _choose(self, request: Any, first: str) -> TaggedScanner | ForcedScanner | None:
        """The scanner for an answer that begins with `first`; None while it has not begun."""
        named = isinstance(request.tool_choice, _NAMED)
        if not named and request.tool_choice != "required":
            return TaggedScanner(self._form(request), keep_calls=request.tool_choice != "none")
        if not first:
            return None
        if first not in "[{":
            return TaggedScanner(self._form(request))
        return ForcedScanner(self._get_function_name(request) if named else None)

    def _form(self, request: Any) -> Form:
        is_xml = isinstance(self._tool_parser, Qwen3ParserToolAdapter)
        return qwen_coder_form(request.tools) if is_xml else HERMES

    def _delta(self, thoughts: str, found: Found) -> DeltaMessage | None:
        """What a handler sends; None if it is nothing. Only fields that are set are written."""
        fields: dict[str, Any] = {}
        if thoughts:
            fields["reasoning"] = thoughts
        if found.content:
            fields["content"] = found.content
        if calls := found.calls[: MAX_CALLS - self._calls]:
            fields["tool_calls"] = [self._tool_call(call) for call in calls]
        return DeltaMessage(**fields) if fields else None

    def _tool_call(self, call: Call) -> DeltaToolCall:
        self._calls += 1
        return DeltaToolCall(
            index=self._calls - 1,
            id=self._make_tool_call_id(call.name) or make_tool_call_id(),
            type="function",
            function=DeltaFunctionCall(name=call.name, arguments=call.arguments),
        )
