"""What the composed application does to a request's body and to its prefix-cache salt."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from tests.unit.server.app.composed import Composed, compose

CHAT = "/v1/chat/completions"
LIMIT_BYTES = 4096
ASK = {"model": "loragate-demo", "messages": [{"role": "user", "content": "Hello!"}]}


@pytest.fixture(scope="module")
async def composed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Composed]:
    folder: Path = tmp_path_factory.mktemp("limits")
    async with compose(folder, max_body_bytes=LIMIT_BYTES) as composed:
        yield composed


def body(size_bytes: int) -> bytes:
    """A request of exactly this size."""
    return json.dumps(ASK).encode().ljust(size_bytes)


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    """Sent without a content-length."""
    for part in parts:
        yield part


async def post(composed: Composed, content: bytes | AsyncIterator[bytes], **headers: str) -> int:
    answer = await composed.ask("POST", CHAT, "demo-acme", content=content, headers=headers)
    if answer.status_code == 413:
        error = answer.json()["error"]
        assert error["code"] == "body_too_large" and str(LIMIT_BYTES) in error["message"]
    return answer.status_code


async def test_a_body_with_a_length_is_capped_to_the_byte(composed: Composed) -> None:
    assert await post(composed, body(LIMIT_BYTES)) == 200
    assert await post(composed, body(LIMIT_BYTES + 1)) == 413


@pytest.mark.parametrize("size_bytes", [1, 1000, LIMIT_BYTES])
async def test_a_chunked_body_is_capped_to_the_byte(composed: Composed, size_bytes: int) -> None:
    def chunks(whole: bytes) -> Iterable[bytes]:
        return [whole[at : at + size_bytes] for at in range(0, len(whole), size_bytes)]

    assert await post(composed, pieces(*chunks(body(LIMIT_BYTES)))) == 200
    assert await post(composed, pieces(*chunks(body(LIMIT_BYTES + 1)))) == 413


async def test_a_length_that_is_announced_too_large_is_refused_before_the_body(composed: Composed) -> None:
    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    length = str(LIMIT_BYTES + 1)
    answer = await composed.ask(
        "POST", CHAT, "demo-acme", content=unread(), headers={"content-length": length}
    )
    assert answer.status_code == 413 and length in answer.json()["error"]["message"]


async def test_a_length_that_is_announced_too_small_does_not_help(composed: Composed) -> None:
    headers = {"content-length": str(LIMIT_BYTES)}
    assert await post(composed, pieces(body(LIMIT_BYTES), b" "), **headers) == 413


@pytest.mark.parametrize(
    "path", ["/admin/v1/adapters/acme/support/promote", "/v1/feedback", "/v1/load_lora_adapter"]
)
async def test_the_cap_has_the_same_answer_where_the_framework_reads_the_body(
    composed: Composed, path: str
) -> None:
    for content in (body(LIMIT_BYTES + 1), pieces(body(LIMIT_BYTES), b" ")):
        answer = await composed.ask("POST", path, "demo-admin", content=content)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (413, "body_too_large") and str(LIMIT_BYTES) in error[
            "message"
        ]
        assert answer.headers["connection"] == "close"
    unknown = await composed.ask("POST", path, "wrong", content=body(LIMIT_BYTES + 1))
    assert unknown.status_code == 401, "an unknown caller is not told the limit"


@pytest.fixture(scope="module")
async def other(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Composed]:
    """A server with the limits that it has by default."""
    async with compose(tmp_path_factory.mktemp("other")) as other:
        yield other


async def test_bodies_without_a_prompt_have_a_smaller_cap(other: Composed) -> None:
    most = 512 << 10
    for path in ("/admin/v1/tenants", "/v1/feedback", "/v1/load_lora_adapter"):
        allowed = await other.ask("POST", path, content=body(most))
        refused = await other.ask("POST", path, content=body(most + 1))
        assert (allowed.status_code, refused.status_code) == (400, 413), path
        assert str(most) in refused.json()["error"]["message"]
    assert (await other.ask("POST", CHAT, "demo-acme", content=body(2 * most))).status_code != 413


@pytest.mark.parametrize(
    "body",
    [
        {"request_id": "x", "rating": "up", "messages": [1] * 2000},
        {"request_id": "x", "rating": "up"} | {f"k{n}": 1 for n in range(1600)},
        {"request_id": "x", "rating": "up", "messages": [{"role": "user", "x": ["a"] * 2000}] * 2},
    ],
)
async def test_bodies_without_a_prompt_have_few_values(other: Composed, body: dict[str, object]) -> None:
    """FastAPI collects every fault of a body: 0.7 s for 150,000 numbers in the place of texts."""
    content = json.dumps(body).encode()
    answer = await other.ask("POST", "/v1/feedback", "demo-acme", content=pieces(content[:99], content[99:]))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "request_too_large") and "1536" in error["message"]
    assert (await other.ask("POST", "/v1/feedback", "wrong", content=content)).status_code == 401
    text = {"request_id": "x", "rating": "up", "comment": ",[{" * 1000}
    assert (await other.ask("POST", "/v1/feedback", "demo-acme", json=text)).status_code == 404


async def test_a_query_has_few_parameters(composed: Composed) -> None:
    """FastAPI looks for each parameter among all others: 1.3 s for 8,000."""
    many = "&".join(f"p{n}=1" for n in range(65))
    answer = await composed.ask("GET", f"/admin/v1/usage?{many}")
    assert answer.status_code == 400 and "65 parameters; at most 64" in answer.json()["error"]["message"]
    assert (await composed.ask("GET", "/admin/v1/usage?" + many.removesuffix("&p64=1"))).status_code == 200


async def test_the_cap_is_not_for_archives_and_only_for_them(composed: Composed) -> None:
    large = b"x" * (LIMIT_BYTES + 1)
    adapter = "/admin/v1/adapters/acme/new"
    upload = (await composed.make("POST", f"{adapter}/uploads"))["id"]
    headers = {"upload-offset": "0", "content-type": "application/octet-stream"}
    path = f"{adapter}/uploads/{upload}"
    assert (await composed.ask("PATCH", path, content=large, headers=headers)).status_code == 200
    refused = await composed.ask("POST", f"{adapter}/versions", content=large)
    assert refused.status_code == 413
    assert await post(composed, large, **headers) == 413


async def test_each_tenant_has_a_salt_of_its_own_that_no_caller_chooses(composed: Composed) -> None:
    async def salt(key: str, **extra: object) -> str:
        await composed.make("POST", CHAT, key=key, json=ASK | extra)
        return composed.engine.asked[-1].cache_salt

    keys = ("demo-acme", "demo-globex", "demo-admin")
    salts = [await salt(key) for key in keys]
    assert len(set(salts)) == len(keys) and all(len(bytes.fromhex(text)) == 32 for text in salts)
    assert [await salt(key, cache_salt=salts[0]) for key in keys] == salts


async def test_another_start_of_the_server_has_other_salts(composed: Composed, other: Composed) -> None:
    for one in (composed, other):
        await one.make("POST", CHAT, key="demo-acme", json=ASK)
    assert composed.engine.asked[-1].cache_salt != other.engine.asked[-1].cache_salt
