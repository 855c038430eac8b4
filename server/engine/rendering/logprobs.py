"""Writes the log-probabilities of an answer in slices, with a pause for the event loop after each.

vLLM's handlers build one object for each of tokens x top_logprobs in one go at the end of an unstreamed answer, or in
the first event of a stream that echoes its prompt, and write them as JSON in another: a second for 2,000 tokens with
20 each. Here a handler gets a placeholder instead; the answer is written with it, and the slices replace it in the
text.
Leans on (vLLM 0.32): OpenAIServingChat._create_chat_logprobs, OpenAIServingCompletion._create_completion_logprobs,
OpenAIServingResponses._create_response_logprobs, which take the tokens' ids and logprobs in parallel lists.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

from openai.types.responses.response_output_text import Logprob as OutputLogprob
from pydantic import TypeAdapter
from starlette.datastructures import State
from vllm.entrypoints.openai.chat_completion.protocol import (
    ChatCompletionLogProbs,
    ChatCompletionLogProbsContent,
)
from vllm.entrypoints.openai.completion.protocol import CompletionLogProbs
from vllm.logprobs import Logprob

from adapters.errors import ProbeFailed
from server.engine.rendering.json_pieces import as_json, with_commas
from server.engine.rendering.token_bytes import with_bytes, with_shown_pieces
from server.request.event_loop import pause

#: Logprobs that are built between two pauses; 10 ms.
SLICE: Final = 256
_ROWS: Final[TypeAdapter[Any]] = TypeAdapter(list[dict[int, Logprob] | None])
#: The lists of a completion's logprobs, in the order in which they are written.
_COMPLETION_LISTS: Final = ("text_offset", "token_logprobs", "tokens", "top_logprobs")
#: What may be the name of a part.
_NAME: Final = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class _Part:
    """One list of logprobs that is still to be built."""

    name: str
    """Stands for it in the answer."""
    placeholder: str
    """The JSON that the placeholder is written as."""
    build: Callable[[int, int, Any], Any]
    """(begin, end, what the slice before returned) → the slice."""
    write: Callable[[list[Any]], list[str]]
    """The slices, dumped, as pieces of the JSON that replaces the placeholder."""
    tokens: int
    step: int
    """Tokens of a slice."""


@dataclass(slots=True)
class DeferredLogprobs:
    """The parts of one answer; empty when all was built at once."""

    parts: list[_Part] = field(default_factory=list)
    built: int = 0
    """Logprobs that were built at once."""
    is_stream: bool = False
    """Of a stream's events only a completion's are deferred: an echo has the prompt's logprobs."""
    offsets: dict[int, int] = field(default_factory=dict)
    """Of a stream: what the handler takes for the end of a text whose logprobs are deferred → its end."""

    def take_prompt_logprobs(self, result: Any) -> None:
        """Defer the prompt's logprobs of vLLM's answer, or of each of its choices."""
        for holder in (result, *(getattr(result, "choices", None) or ())):
            rows = getattr(holder, "prompt_logprobs", None)
            if rows and len(rows) * len(rows[-1] or ()) > SLICE:
                part, holder.prompt_logprobs = _prompt_part(rows)
                self.parts.append(part)

    async def filled(self, text: str) -> list[str]:
        """JSON with placeholders, as pieces with the parts in their places."""
        if not self.parts:
            return [text]
        parts, pieces, at = {part.name: part for part in self.parts}, [], 0
        for found in _NAME.finditer(text):
            if part := parts.get(found[0]):
                begin = found.start() - part.placeholder.index(part.name)
                pieces += [text[at:begin], *await _build(part)]
                at = begin + len(part.placeholder)
        return [*pieces, text[at:]]


_deferred: ContextVar[DeferredLogprobs | None] = ContextVar("loragate_deferred_logprobs", default=None)


@contextlib.contextmanager
def deferring(deferred: DeferredLogprobs | None = None) -> Iterator[DeferredLogprobs]:
    """Within it, many logprobs are deferred: to `deferred`, or to a new one."""
    deferred = deferred or DeferredLogprobs()
    token = _deferred.set(deferred)
    try:
        yield deferred
    finally:
        _deferred.reset(token)


async def filled_events(events: AsyncGenerator[str]) -> AsyncGenerator[str]:
    """A stream's events; the logprobs of a prompt in one of them are built in slices, too."""
    deferred = DeferredLogprobs(is_stream=True)
    async with aclosing(events):
        while True:
            with deferring(deferred):
                event = await anext(events, None)
            if event is None:
                return
            yield "".join(await deferred.filled(event)) if deferred.parts else event
            deferred.parts, deferred.built = [], 0


def install(state: State) -> None:
    """Defer log-probabilities in vLLM's handlers: replace three functions of theirs; see the module."""
    for chat in (state.openai_serving_chat, state.anthropic_serving_messages):
        create = with_bytes(chat._create_chat_logprobs, "top_logprobs")
        chat._create_chat_logprobs = _deferrable(create, "top_logprobs", _chat_part)
    completion = state.openai_serving_completion
    completion._create_completion_logprobs = _deferrable(
        with_shown_pieces(completion._create_completion_logprobs), "top_logprobs", _completion_part
    )
    responses = state.openai_serving_responses
    responses._create_response_logprobs = _deferrable(
        with_bytes(responses._create_response_logprobs, "logprobs"), "logprobs", _response_part
    )


def _deferrable(create: Callable[..., Any], lists: str, part_of: Callable[..., Any]) -> Callable[..., Any]:
    """`create`, which builds few logprobs at once and defers many.

    Args:
        create: vLLM's function; its arguments are named.
        lists: its argument with the logprobs of each token.
        part_of: makes a part and the placeholder that `create` returns for it.
    """

    def create_or_defer(**arguments: Any) -> Any:
        deferred = _deferred.get()
        per_token = [len(each or ()) + 1 for each in arguments[lists][:64]] or [1]
        count = max(per_token) * len(arguments["token_ids"])
        if deferred is None or (deferred.is_stream and part_of is not _completion_part):
            return create(**arguments)
        begins_at = arguments.get("initial_text_offset", 0)
        if begins_at in deferred.offsets:
            begins_at = arguments["initial_text_offset"] = deferred.offsets.pop(begins_at)
        if deferred.built + count <= SLICE:
            deferred.built += count
            return create(**arguments)

        def build(begin: int, end: int, **changed: Any) -> Any:
            sliced = {name: arguments[name][begin:end] for name in ("token_ids", lists)}
            return create(**{**arguments, **sliced, **changed})

        tokens, step = len(arguments["token_ids"]), max(1, SLICE // max(per_token))
        if part_of is _completion_part:
            part, placeholder = part_of(build, tokens, step, begins_at, deferred.offsets)
        else:
            part, placeholder = part_of(build, tokens, step)
        deferred.parts.append(part)
        return placeholder

    return create_or_defer


async def _build(part: _Part) -> list[str]:
    slices: list[Any] = []
    last: Any = None
    for begin in range(0, part.tokens, part.step):
        last = part.build(begin, begin + part.step, last)
        slices.append(last)
        await pause()
    return part.write(slices)


def _chat_part(build: Callable[..., Any], tokens: int, step: int) -> tuple[_Part, ChatCompletionLogProbs]:
    name = uuid4().hex
    holder = ChatCompletionLogProbs(content=[ChatCompletionLogProbsContent(token=name)])

    def dumped(begin: int, end: int, _: Any) -> str:
        items = build(begin, end).content
        return ",".join(item.model_dump_json() for item in items)

    return _Part(name, as_json(holder.content[0].model_dump()), dumped, with_commas, tokens, step), holder


def _response_part(build: Callable[..., Any], tokens: int, step: int) -> tuple[_Part, list[Any]]:
    name = uuid4().hex

    def dumped(begin: int, end: int, _: Any) -> str:
        return ",".join(item.model_dump_json() for item in build(begin, end))

    holder = OutputLogprob(token=name, bytes=[], logprob=0.0, top_logprobs=[])
    return _Part(name, as_json(holder.model_dump()), dumped, with_commas, tokens, step), [holder]


def _completion_part(
    build: Callable[..., Any], tokens: int, step: int, begins_at: int, offsets: dict[int, int]
) -> tuple[_Part, CompletionLogProbs]:
    name = uuid4().hex
    offset = int(name[:12], 16)
    holder = CompletionLogProbs(
        text_offset=[offset], token_logprobs=[0.0], tokens=[name], top_logprobs=[None]
    )

    def sliced(begin: int, end: int, before: Any) -> tuple[int, list[str]]:
        made = build(begin, end, initial_text_offset=before[0] if before else begins_at)
        after = made.text_offset[-1] + len(made.tokens[-1])
        offsets[offset + len(name)] = after  # where a stream's handler takes this text to end
        return after, [as_json(getattr(made, each))[1:-1] for each in _COMPLETION_LISTS]

    def write(slices: list[Any]) -> list[str]:
        pieces: list[str] = []
        for each, texts in zip(
            _COMPLETION_LISTS, zip(*(lists for _, lists in slices), strict=True), strict=True
        ):
            pieces += ["," if pieces else "", f'"{each}":[', *with_commas(texts), "]"]
        return pieces

    return _Part(name, as_json(holder.model_dump())[1:-1], sliced, write, tokens, step), holder


def _prompt_part(rows: list[Any]) -> tuple[_Part, list[Any]]:
    name = uuid4().hex
    step = max(1, SLICE // len(rows[-1]))

    def dumped(begin: int, end: int, _: Any) -> str:
        return _ROWS.dump_json(rows[begin:end])[1:-1].decode()

    holder = [{0: Logprob(logprob=0.0, decoded_token=name)}]
    placeholder = as_json(_ROWS.dump_python(holder, mode="json"))[1:-1]
    return _Part(name, placeholder, dumped, with_commas, len(rows), step), holder


def check_finite(output: Any) -> None:
    """Check that the chosen tokens of a generation have finite log-probabilities. Raises: ProbeFailed."""
    sequence = output.outputs[0]
    chosen = [step[token].logprob for step, token in zip(sequence.logprobs, sequence.token_ids, strict=True)]
    if not sequence.token_ids or not all(math.isfinite(value) for value in chosen):
        raise ProbeFailed("The adapter's answer to the probe is empty or not finite.")
