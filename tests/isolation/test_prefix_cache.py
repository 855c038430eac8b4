"""The prefix cache tells no tenant what another one asked."""

from __future__ import annotations

from uuid import uuid4

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


def test_a_tenant_hits_its_own_prefix(acme: openai.OpenAI) -> None:
    prompt = long_prompt()
    assert cached(acme, prompt) == 0
    assert cached(acme, prompt) > 0, "the cache must work at all, or the other tests prove nothing"


def test_another_tenant_never_does(
    acme: openai.OpenAI, globex: openai.OpenAI, operator: openai.OpenAI
) -> None:
    prompt = long_prompt()
    for _ in range(2):
        cached(acme, prompt)
    assert cached(globex, prompt) == 0
    assert cached(operator, prompt) == 0


def test_base_and_adapter_do_not_share(acme: openai.OpenAI) -> None:
    """The same tenant's prompt under another model has other keys and values."""
    prompt = long_prompt()
    cached(acme, prompt)
    answer = acme.completions.create(model="acme-support", prompt=prompt, max_tokens=1, temperature=0)
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
    assert not answer.usage.prompt_tokens_details.cached_tokens
