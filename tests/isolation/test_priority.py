"""`priority` of a body moves nobody: who goes next is the scheduler's to say."""

from __future__ import annotations

import httpx
import pytest

BODY = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 12, "temperature": 0}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
@pytest.mark.parametrize("priority", [-1000, 1000])
def test_it_is_left_out(http: httpx.Client, path: str, priority: int) -> None:
    """It does not even reach the check of vLLM, which would refuse it without priority scheduling."""
    bodies: dict[str, dict[str, object]] = {
        "/v1/chat/completions": BODY,
        "/v1/completions": {"prompt": "Hello!", "max_tokens": 12, "temperature": 0},
        "/v1/responses": {"input": "Hello!", "max_output_tokens": 12, "temperature": 0},
    }
    ask = {"model": "acme-support", **bodies[path]}
    plain = http.post(path, json=ask)
    first = http.post(path, json=ask | {"priority": priority})
    assert plain.status_code == first.status_code == 200, first.text
    assert said(first) == said(plain)


def said(answer: httpx.Response) -> str:
    content = answer.json()
    if "output" in content:
        return str(content["output"][0]["content"][0]["text"])
    choice = content["choices"][0]
    return str(choice.get("text") or choice["message"]["content"])
