"""The salt of the prefix cache is the server's: one that a caller sends opens nobody's cache, nor closes its own."""

from __future__ import annotations

from uuid import uuid4

import httpx
import openai

BASE = "loragate-demo"


def cached(client: openai.OpenAI, prompt: str, **extra: object) -> int:
    answer = client.completions.create(
        model=BASE, prompt=prompt, max_tokens=1, temperature=0, extra_body=extra
    )
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
    return answer.usage.prompt_tokens_details.cached_tokens or 0


def long_prompt() -> str:
    """Several full blocks, never sent before."""
    return f"{uuid4().hex} " + "the fox and the bear went to the market " * 40


def test_a_salt_that_a_caller_sends_counts_for_nothing(acme: openai.OpenAI, globex: openai.OpenAI) -> None:
    prompt = long_prompt()
    assert cached(acme, prompt, cache_salt="shared") == 0
    assert cached(acme, prompt) > 0, "the caller's salt was not used"
    assert cached(globex, prompt, cache_salt="shared") == 0


def test_no_answer_tells_the_salt(http: httpx.Client) -> None:
    """With it, what a tenant asked could be tried out on another server of the same key."""
    body = {"model": BASE, "prompt": long_prompt(), "max_tokens": 1}
    answer = http.post("/v1/completions", json=body, headers={"x-loragate-debug": "1"})
    assert answer.status_code == 200
    assert "salt" not in answer.text + str(answer.headers)
