"""vLLM's /v1/chat/completions/batch: several chats in one request, each admitted and served as one of its own.

vLLM's own handler renders all chats before it asks the engine for the first one, in the API process. Here the body is
split, and every part takes the way of a chat: limits, rates, the adapter, the prompt workers, usage. The answer is
vLLM's: one choice for each chat, with the sums of their usage. If one chat is refused or fails, all of them are.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.datastructures import Headers

from sampling.endpoints import Endpoint
from sampling.errors import BodyLimitExceeded
from sampling.limits import Limits
from server.errors import InvalidRequest
from server.request.access_log import AccessRecord
from server.request.body import is_small, read
from server.request.context import Answer, Caller, JsonAnswer, RequestContext
from server.request.event_loop import pause
from server.request.request_service import RequestService

PATH: Final = "/v1/chat/completions/batch"
#: Where the one choice of a chat's answer begins and ends in its JSON, which has these keys once and in this order.
_BEFORE_CHOICE: Final = '"choices":[{"index":0,'
_AFTER_CHOICE: Final = '],"service_tier":'
#: Chats that start between two pauses, and what they cost the event loop.
_STARTED_TOGETHER: Final = 2
_STARTS_S: Final = 0.006
#: Parts of a chat's answer that belong to one prompt, and not to the batch.
_OF_ONE_PROMPT: Final = ("prompt_logprobs", "prompt_token_ids", "prompt_text", "metrics")


@dataclass(frozen=True, slots=True)
class BatchService:
    """Prepares and serves the chats of a batch."""

    requests: RequestService

    async def prepare(
        self, caller: Caller, raw: bytes, headers: Headers, record: AccessRecord
    ) -> tuple[RequestContext, ...]:
        """The chats as requests; their ids are the batch's with a number. Raises: as a chat's.

        Args:
            caller, raw, headers: of the batch.
            record: has its id, and gets the model that it names.
        """
        limits = self.requests.sampling.limits_for(caller.limits)
        if is_small(raw, Endpoint.CHAT):
            parts = split(raw, limits)
        else:
            parts = await self.requests.prompts().split(caller.tenant_name, raw, limits)
        contexts = []
        for number, part in enumerate(parts):
            body = await self.requests.read(caller, Endpoint.CHAT, part)
            record.note_requested_model(body.fields)
            request_id = f"{record.request_id}-{number}"
            contexts.append(await self.requests.prepare(caller, Endpoint.CHAT, body, headers, request_id))
            await pause()
        return tuple(contexts)

    @contextlib.asynccontextmanager
    async def serve(self, contexts: Sequence[RequestContext], headers: Headers) -> AsyncIterator[Answer]:
        """Serve all chats, at most `max_concurrency` at the same time, and join their answers.

        Raises: as a chat's, for the first one that is refused or fails; the others are aborted.
        """
        places = asyncio.Semaphore(contexts[0].tenant_settings.max_concurrency or len(contexts))

        failed = asyncio.Event()

        async def answer(context: RequestContext) -> JsonAnswer:
            try:
                async with places, self.requests.serve(context, headers) as answered:
                    assert isinstance(answered, JsonAnswer)
                    return answered
            except Exception:  # whatever failed: the rest of the batch need not start
                failed.set()
                raise

        tasks = []
        try:
            for number, context in enumerate(contexts, 1):
                tasks.append(asyncio.create_task(answer(context)))
                if not number % _STARTED_TOGETHER:
                    await pause(0.0 if places.locked() else _STARTS_S)
                if failed.is_set():
                    break
            answers = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        request_id = contexts[0].request_id.removesuffix("-0")
        yield await join(answers, f"chatcmpl-{request_id}")


def split(raw: bytes, limits: Limits) -> list[bytes]:
    """The bodies of the chats of a batch.

    Raises:
        InvalidRequest: the body is not a batch, or asks for what only a single chat can have.
        BodyLimitExceeded: it is above a limit.
    """
    body = read(raw, limits)
    chats = body.get("messages")
    if not isinstance(chats, list) or not chats or not all(isinstance(chat, list) and chat for chat in chats):
        raise InvalidRequest(
            "messages of a batch must be a list of chats, each a list of messages and none empty.",
            param="messages",
        )
    if limits.prompts is not None and len(chats) > limits.prompts:
        raise BodyLimitExceeded("prompts", len(chats), limits.prompts, "chats", "messages")
    for name, single in (("stream", (None, False)), ("n", (None, 1)), ("use_beam_search", (None, False))):
        if body.get(name) not in single:
            raise InvalidRequest(
                f"A batch cannot have {name} {json.dumps(body[name])[:64]}: leave it out, or send the chats one "
                "by one to /v1/chat/completions.",
                param=name,
            )
    return [json.dumps({**body, "messages": chat}).encode() for chat in chats]


async def join(answers: Sequence[JsonAnswer], answer_id: str) -> JsonAnswer:
    """One answer with a choice for each of the chats' answers, written as JSON with pauses for the event loop."""
    first = answers[0].content
    whole = {**first, "id": answer_id, "choices": [], "usage": _sum(a.content.get("usage") for a in answers)}
    whole |= {name: None for name in _OF_ONE_PROMPT if name in whole}
    choices: list[str] = []
    for index, answer in enumerate(answers):
        choices += [",", *_choice(answer, index)]
        await pause()
    head, _, tail = _json(whole).partition('"choices":[')
    return JsonAnswer(whole, answers[0].ignored, [f'{head}"choices":[', *choices[1:], tail])


def _choice(answer: JsonAnswer, index: int) -> Iterator[str]:
    """The only choice of an answer, with this index, as pieces of JSON."""
    if answer.pieces is None:
        yield _json({**answer.content["choices"][0], "index": index})
        return
    began = ended = False
    for piece in answer.pieces:
        if not began:
            _, found, piece = piece.partition(_BEFORE_CHOICE)
            if began := bool(found):
                yield f'{{"index":{index},'
        if began:
            choice, found, _ = piece.partition(_AFTER_CHOICE)
            yield choice
            if ended := bool(found):
                break
    assert ended, "the order of the keys in vLLM's answer has changed"


def _sum(usages: Iterable[Any]) -> Any:
    """The sums of all numbers at the same place; None where no usage has any."""
    known = [usage for usage in usages if usage is not None]
    if known and isinstance(known[0], dict):
        return {name: _sum(usage.get(name) for usage in known) for name in known[0]}
    return sum(known) if known else None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
