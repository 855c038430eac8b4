"""X-data-parallel-rank picks an engine; a caller's is not read."""

from __future__ import annotations

import httpx
import pytest

BODY = {
    "model": "acme-support",
    "messages": [{"role": "user", "content": "Hello!"}],
    "temperature": 0,
    "max_tokens": 12,
}


@pytest.mark.parametrize("rank", ["7", "0", "-1", "x"])
def test_the_header_is_not_read(http: httpx.Client, rank: str) -> None:
    """vLLM refuses a rank that there is not (one engine has rank 0 only): a 200 shows that it was given none."""
    plain = http.post("/v1/chat/completions", json=BODY)
    ranked = http.post("/v1/chat/completions", json=BODY, headers={"X-data-parallel-rank": rank})
    assert plain.status_code == ranked.status_code == 200, ranked.text
    assert ranked.json()["choices"] == plain.json()["choices"]


def test_the_field_is_not_read(http: httpx.Client) -> None:
    assert http.post("/v1/chat/completions", json=BODY | {"data_parallel_rank": 3}).status_code == 200
