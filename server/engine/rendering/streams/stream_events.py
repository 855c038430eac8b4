"""The events of a streamed answer, as its caller gets them.

The last events of a Responses stream repeat all log-probabilities; they are written in slices, with a pause for the
event loop after each.
Leans on (vLLM 0.32): OpenAIServingResponses.responses_stream_generator and its events, which are records of the
`openai` package.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from starlette.datastructures import State

from sampling.endpoints import Endpoint
from server.engine.errors import translate_failure
from server.engine.rendering.json_pieces import with_commas
from server.engine.rendering.logprobs import SLICE
from server.request.context import RequestContext
from server.request.event_loop import pause

_END_OF_CHUNK = "}\n\n"


async def public_events(
    stream: AsyncIterator[Any], internal: str, public: str, *, with_usage: bool = False
) -> AsyncGenerator[str]:
    """Server-sent events of any endpoint, with the public model name, and with `usage` where it was asked for.

    The Responses handler yields records, the others finished events. The chunks are JSON that vLLM has just
    written and contain the model name in quotes, so a text replacement is exact and needs no parsing. The chunk with
    the usage is the one without choices.
    """
    quoted, wanted = f'"model":"{internal}"', f'"model":"{public}"'
    async for item in stream:
        text = item if isinstance(item, str) else f"event: {item.type}\ndata: {await _written(item)}\n\n"
        if with_usage and text.startswith('data: {"id"') and '"choices":[]' not in text:
            text = f'{text.removesuffix(_END_OF_CHUNK)},"usage":null{_END_OF_CHUNK}'
        yield text.replace(quoted, wanted, 1) if internal != public else text


async def _written(event: Any) -> str:
    """The event as JSON."""
    long = [(holder, holder.logprobs) for holder in _holders(event) if _is_long(holder)]
    names = [uuid4().hex for _ in long]
    try:
        for name, (holder, logprobs) in zip(names, long, strict=True):
            holder.logprobs = [logprobs[0].model_copy(update={"token": name, "top_logprobs": []})]
        text: str = event.model_dump_json(indent=None, by_alias=True)
        placeholders = [holder.logprobs[0].model_dump_json(by_alias=True) for holder, _ in long]
    finally:
        for holder, logprobs in long:
            holder.logprobs = logprobs
    pieces = []
    for placeholder, (_, logprobs) in zip(placeholders, long, strict=True):
        head, found, text = text.partition(placeholder)
        assert found, "the logprobs of the event are not in the order of their holders"
        pieces += [head, *await _slices(logprobs)]
    return "".join([*pieces, text])


async def _slices(logprobs: list[Any]) -> list[str]:
    written = []
    step = max(1, SLICE // (1 + len(logprobs[0].top_logprobs or ())))
    for begin in range(0, len(logprobs), step):
        written.append(
            ",".join(each.model_dump_json(by_alias=True) for each in logprobs[begin : begin + step])
        )
        await pause()
    return with_commas(written)


def _holders(event: Any) -> Iterator[Any]:
    """What has a list of log-probabilities, in the order in which it is written."""
    yield event
    yield getattr(event, "part", None)
    response = getattr(event, "response", None)
    for output in [getattr(event, "item", None), *(getattr(response, "output", None) or ())]:
        yield from getattr(output, "content", None) or ()


def _is_long(holder: Any) -> bool:
    logprobs: Any = getattr(holder, "logprobs", None)
    return bool(logprobs) and len(logprobs) * (1 + len(logprobs[0].top_logprobs or ())) > SLICE


def asks_usage(context: RequestContext) -> bool:
    """Whether the chunks of OpenAI's API must have a `usage` that is null in all but the last one."""
    options = context.sampling.body.get("stream_options")
    if context.endpoint not in (Endpoint.CHAT, Endpoint.COMPLETIONS) or not isinstance(options, dict):
        return False
    return bool(options.get("include_usage")) and not options.get("continuous_usage_stats")


def refuse_before_events(state: State) -> None:
    """Let the Responses handler begin a stream when the engine has begun the answer.

    Its first events come before it asks the engine: what refuses the request then would be an error after status 200.
    """
    handler: Any = state.openai_serving_responses
    stream = handler.responses_stream_generator

    async def stream_what_has_begun(
        request: Any, params: Any, contexts: AsyncGenerator[Any], *others: Any
    ) -> AsyncGenerator[Any]:
        async with aclosing(contexts):
            try:
                first = await anext(contexts, None)
            except Exception as error:  # whatever the engine's client raises
                raise translate_failure(error) from error
            async with aclosing(stream(request, params, _with_first(first, contexts), *others)) as events:
                async for event in events:
                    yield event

    handler.responses_stream_generator = stream_what_has_begun


async def _with_first(first: Any, contexts: AsyncIterator[Any]) -> AsyncGenerator[Any]:
    if first is not None:
        yield first
        async for context in contexts:
            yield context
