"""What the official clients make of a refusal, and what becomes of a request whose client leaves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

SUPPORT = "acme-support"
HELLO = [{"role": "user", "content": "Hello!"}]


def test_wrong_key(client_for: Callable[[str], Any]) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        client_for("demo-nobody").chat.completions.create(model=SUPPORT, messages=HELLO)
    assert caught.value.code == "invalid_api_key"
    assert caught.value.response.headers["www-authenticate"].startswith("Bearer")


def test_anothers_model_looks_like_none(globex: Any) -> None:
    """Byte for byte: only the name that was asked for may differ."""
    bodies = []
    for name in ("acme-support", "acme-nothing"):
        with pytest.raises(openai.NotFoundError) as caught:
            globex.chat.completions.create(model=name, messages=HELLO)
        assert caught.value.code == "model_not_found"
        bodies.append(caught.value.response.content.replace(name.encode(), b"NAME"))
        with pytest.raises(openai.NotFoundError) as caught:
            globex.models.retrieve(name)
        bodies.append(caught.value.response.content.replace(name.encode(), b"NAME"))
    assert len(set(bodies)) == 1


def test_over_long_prompt(acme: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        acme.chat.completions.create(model=SUPPORT, messages=[{"role": "user", "content": "fox " * 9000}])
    assert caught.value.code == "context_length_exceeded"


def test_a_body_that_is_no_json(acme: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        acme.post("/chat/completions", cast_to=object, content=b"{not json")
    assert caught.value.code == "invalid_json"


def test_a_client_that_leaves_is_aborted_in_the_engine(acme: Any, http: httpx.Client) -> None:
    def running() -> float:
        lines = http.get("/metrics").text.splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("vllm:num_requests_running{")
        )

    stream = acme.chat.completions.create(
        model=SUPPORT, messages=HELLO, max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    deadline = time.monotonic() + 5
    while running() < 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running() == 1
    left_at = time.monotonic()
    stream.close()
    while running() > 0 and time.monotonic() - left_at < 2:
        time.sleep(0.05)
    assert running() == 0, f"still running {time.monotonic() - left_at:.1f} s after the client left"
