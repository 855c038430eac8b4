"""vLLM's batch of chats, sent with the official client: each chat is admitted, and answered as if it came alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import openai
import pytest
from server_process import ServerProcess

BASE = "loragate-demo"
PATH = "/chat/completions/batch"


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


CHATS = [chat("Hello!"), chat("Tell me a story about a fox."), chat("What is the weather in Paris?")]


@pytest.fixture(scope="module")
def small(server: ServerProcess) -> Iterator[httpx.Client]:
    """A tenant that may have two requests at once and four in a minute."""
    name = f"b{uuid4().hex[:8]}"
    operator = httpx.Client(
        base_url=f"{server.url}/admin/v1", headers={"authorization": "Bearer demo-admin"}, timeout=60
    )
    limits = {"max_concurrency": 2, "rpm": 4}
    operator.post("/tenants", json={"name": name, "settings": limits}).raise_for_status()
    key = operator.post("/keys", json={"tenant": name}).raise_for_status().json()["secret"]
    with httpx.Client(
        base_url=f"{server.url}/v1", headers={"authorization": f"Bearer {key}"}, timeout=60
    ) as client:
        yield client
    operator.delete(f"/tenants/{name}").raise_for_status()
    operator.close()


def send(client: Any, **body: Any) -> Any:
    return client.post(PATH, cast_to=object, body={"temperature": 0, "max_tokens": 16} | body)


def test_each_chat_is_answered_as_if_it_came_alone(acme: Any) -> None:
    whole = send(acme, model="acme-support", messages=CHATS)
    alone = [
        acme.chat.completions.create(model="acme-support", messages=each, temperature=0, max_tokens=16)
        for each in CHATS
    ]
    assert whole["object"] == "chat.completion" and whole["model"] == "acme-support"
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    for choice, answer in zip(whole["choices"], alone, strict=True):
        assert choice["message"]["content"] == answer.choices[0].message.content
        assert choice["finish_reason"] == answer.choices[0].finish_reason
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert whole["usage"][name] == sum(getattr(answer.usage, name) for answer in alone)


def test_a_large_batch_and_long_logprobs(acme: Any) -> None:
    """The first is split in a worker; the answer of the second is written in slices."""
    chats = [chat(f"Number {number}") * 15 for number in range(20)]
    choices = send(acme, model=BASE, messages=chats, max_tokens=4)["choices"]
    assert [choice["index"] for choice in choices] == list(range(20))
    ask = {"model": BASE, "messages": CHATS[:2], "max_tokens": 64, "logprobs": True, "top_logprobs": 5}
    for choice in send(acme, **ask, ignore_eos=True)["choices"]:
        content = choice["logprobs"]["content"]
        assert len(content) == 64 and len(content[0]["top_logprobs"]) == 5


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": CHATS[0]}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [[]]}, "messages"),
        ({"messages": CHATS, "stream": True}, "stream"),
        ({"messages": CHATS, "n": 2}, "n"),
        ({"messages": CHATS, "temperature": 9}, "temperature"),
    ],
)
def test_what_a_batch_cannot_have(acme: Any, body: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        send(acme, model=BASE, **body)
    assert caught.value.param == param


def test_anothers_model(acme: Any) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        send(acme, model="globex-tools", messages=CHATS)
    assert caught.value.code == "model_not_found"


def test_every_chat_counts_in_the_tenants_limits(small: httpx.Client) -> None:
    """More chats than places take turns; one more than the minute allows refuses the batch."""
    body = {"messages": CHATS, "max_tokens": 4}  # the base is the only model of this tenant
    answer = small.post(PATH, json=body)
    assert answer.status_code == 200 and answer.json()["model"] == BASE
    assert answer.headers["x-ratelimit-remaining-requests"] == "1"
    refused = small.post(PATH, json=body)
    assert refused.status_code == 429 and refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert int(refused.headers["retry-after"]) >= 1
