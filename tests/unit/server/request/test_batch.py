"""A batch is split into chats, and their answers are joined as they were written."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.datastructures import Headers

from sampling.errors import BodyLimitExceeded
from sampling.limits import Limits
from server.errors import InvalidRequest
from server.request.batch import BatchService, join, split
from server.request.context import JsonAnswer

HELLO = [{"role": "user", "content": "Hello"}]
TRICK = '"}],"service_tier":null,"choices":[{"index":0,'


def answer(text: str, tokens: int, *, written: bool) -> JsonAnswer:
    """A chat's answer as vLLM has it; `written`: with its text, as one with many logprobs."""
    usage = {"prompt_tokens": 2, "completion_tokens": tokens, "prompt_tokens_details": {"cached_tokens": 1}}
    choice = {"index": 0, "message": {"content": text}, "finish_reason": "stop"}
    content: dict[str, Any] = {"id": "chatcmpl-a-0", "model": "m", "choices": [choice], "service_tier": None}
    content |= {"usage": usage | {"details": None}, "prompt_token_ids": [1, 2]}
    whole = json.dumps(content, separators=(",", ":"))
    middle = whole.index('"message"') + 5  # a long answer is in pieces, with a cut somewhere in the choice
    pieces = [whole[:middle], whole[middle:]] if written else None
    return JsonAnswer({**content, "choices": ["placeholder"]} if written else content, ("x",), pieces)


def test_each_chat_has_all_options() -> None:
    raw = json.dumps({"model": "m", "messages": [HELLO, HELLO * 2], "temperature": 0}).encode()
    parts = [json.loads(part) for part in split(raw, Limits())]
    assert parts == [{"model": "m", "messages": HELLO * n, "temperature": 0} for n in (1, 2)]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": HELLO}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "x"}, "messages"),
        ({"messages": [HELLO, []]}, "messages"),
        ({"stream": True}, "stream"),
        ({"n": 2}, "n"),
        ({"use_beam_search": True}, "use_beam_search"),
    ],
)
def test_what_is_no_batch(change: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        split(json.dumps({"messages": [HELLO]} | change).encode(), Limits())
    assert caught.value.param == param


def test_chats_are_bounded_like_prompts() -> None:
    raw = json.dumps({"messages": [HELLO] * 3, "stream": None, "n": 1}).encode()
    assert len(split(raw, Limits(prompts=3))) == 3
    with pytest.raises(BodyLimitExceeded, match="3 chats"):
        split(raw, Limits(prompts=2))


@pytest.mark.parametrize("written", [False, True])
async def test_answers_are_joined(written: bool) -> None:
    texts = ["one", TRICK, "ümlaut"]
    answers = [answer(text, at, written=written) for at, text in enumerate(texts)]
    joined = await join(answers, "chatcmpl-a")
    assert joined.pieces is not None and joined.ignored == ("x",)
    told = json.loads(b"".join(await joined.parts()))
    assert told["id"] == "chatcmpl-a" and told["prompt_token_ids"] is None
    assert [(c["index"], c["message"]["content"]) for c in told["choices"]] == list(enumerate(texts))
    assert told["usage"] == {
        "prompt_tokens": 6, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 3}, "details": None
    }  # fmt: skip


class Chats:
    """Serves chats in several turns of the loop; chat 3 is refused if told so."""

    def __init__(self, refused: bool = False) -> None:
        self.refused = refused
        self.running = self.most = self.started = 0

    @contextlib.asynccontextmanager
    async def serve(self, context: Any, headers: Headers) -> AsyncIterator[JsonAnswer]:
        self.running += 1
        self.started += 1
        self.most = max(self.most, self.running)
        try:
            for _ in range(3 if self.refused and context.number >= 3 else 1000):
                await asyncio.sleep(0)
            if self.refused and context.number == 3:
                raise InvalidRequest("chat 3")
            yield answer(f"answer {context.number}", 1, written=False)
        finally:
            self.running -= 1


def contexts(places: int | None) -> Any:
    settings = SimpleNamespace(max_concurrency=places)
    return [SimpleNamespace(number=at, request_id=f"r-{at}", tenant_settings=settings) for at in range(6)]


@pytest.mark.parametrize(("places", "most"), [(2, 2), (None, 6)])
async def test_chats_take_turns_in_their_tenants_places(
    places: int | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "server.request.batch._STARTS_S", 0.0
    )  # else the first ones end before the last ones start
    chats: Any = Chats()
    async with BatchService(chats).serve(contexts(places), Headers()) as joined:
        assert isinstance(joined, JsonAnswer) and joined.content["id"] == "chatcmpl-r"
        told = json.loads("".join(joined.pieces or ()))["choices"]
    assert [choice["message"]["content"] for choice in told] == [f"answer {at}" for at in range(6)]
    assert (chats.most, chats.running) == (most, 0)


async def test_a_chat_that_is_refused_ends_the_others() -> None:
    chats: Any = Chats(refused=True)
    with pytest.raises(InvalidRequest, match="chat 3"):
        async with BatchService(chats).serve(contexts(None), Headers()):
            pytest.fail("there is no answer")
    assert chats.running == 0


async def test_no_chat_starts_after_one_was_refused() -> None:
    chats: Any = Chats(refused=True)
    settings = SimpleNamespace(max_concurrency=None)
    many: Any = [
        SimpleNamespace(number=3, request_id=f"r-{at}", tenant_settings=settings) for at in range(40)
    ]
    with pytest.raises(InvalidRequest, match="chat 3"):
        async with BatchService(chats).serve(many, Headers()):
            pytest.fail("there is no answer")
    assert chats.running == 0 and 1 <= chats.started < 40
