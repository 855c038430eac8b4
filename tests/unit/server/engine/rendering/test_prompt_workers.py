"""What a tenant is told when a worker ends without a result."""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any

import pytest

from sampling.endpoints import Endpoint
from sampling.limits import Limits
from server.engine.rendering.prompt_workers import PromptWorkers
from server.engine.workers.errors import WorkerDied, WorkRefused, WorkTimedOut
from server.errors import EngineUnavailable, InternalError, InvalidRequest, TooManyLargeRequests

RAW = b'{"messages": [{"role": "user", "content": "big"}], "model": "m"}'


class Pool:
    """Answers with `outcome`, and fails to start where `broken`."""

    def __init__(self) -> None:
        self.outcome: Any = {"model": "m"}
        self.broken = False
        self.asked: list[tuple[str, float]] = []

    async def start(self) -> None:
        if self.broken:
            raise WorkerDied(1 << 20)

    async def close(self) -> None:
        """It has nothing to close."""

    async def run(self, tenant: str, task: Any, *arguments: Any, limit_s: float) -> Any:
        self.asked.append((tenant, limit_s))
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def workers(pool: Pool, *, pictures: bool = False, kind: str = "qwen2") -> PromptWorkers:
    model: Any = SimpleNamespace(
        supports_multimodal_inputs=pictures, hf_config=SimpleNamespace(model_type=kind)
    )
    config: Any = SimpleNamespace(model_config=model)
    made = PromptWorkers(config, argparse.Namespace())
    made._pool = pool  # type: ignore[assignment]
    return made


@pytest.fixture
def pool() -> Pool:
    return Pool()


async def test_a_body_comes_back_without_its_prompt_and_keeps_its_bytes(pool: Pool) -> None:
    body = await workers(pool).read("acme", Endpoint.CHAT, RAW, Limits(render_s=7))
    assert (body.fields, body.raw) == ({"model": "m"}, RAW) and pool.asked == [("acme", 7)]


async def test_text_for_a_model_that_reads_pictures_is_rendered_in_a_worker(pool: Pool) -> None:
    body = await workers(pool, pictures=True).read("acme", Endpoint.CHAT, RAW, Limits())
    assert body.raw == RAW and body.fields == {"model": "m"}


@pytest.mark.parametrize("other", [{"pictures": True}, {"kind": "gpt_oss"}])
async def test_what_is_rendered_in_the_server_has_few_values(pool: Pool, other: Any) -> None:
    pool.outcome = None if "pictures" in other else {"model": "m"}
    raw = b'{"messages": [' + b"{}," * 5000 + b"{}]}"
    with pytest.raises(InvalidRequest, match="4096 JSON values"):
        await workers(pool, **other).read("acme", Endpoint.CHAT, raw, Limits())


@pytest.mark.parametrize("other", [{"pictures": True}, {"kind": "gpt_oss"}])
async def test_what_cannot_be_rendered_in_a_worker_is_only_checked_there(pool: Pool, other: Any) -> None:
    pool.outcome = None if "pictures" in other else {"model": "m"}
    body = await workers(pool, **other).read("acme", Endpoint.CHAT, RAW, Limits())
    assert body.raw is None and body.fields["messages"][0]["content"] == "big" and len(pool.asked) == 1


@pytest.mark.parametrize(
    ("outcome", "expected", "sentence"),
    [
        (WorkRefused(32), TooManyLargeRequests, "32 large requests of your tenant wait"),
        (WorkTimedOut(30), InvalidRequest, "within 30 s (limit 'render_s')"),
        (WorkerDied(2 << 30), InvalidRequest, "more than 2048 MiB"),
        (InvalidRequest("wrong", param="messages"), InvalidRequest, "wrong"),
    ],
)
async def test_the_reason_is_told(pool: Pool, outcome: Exception, expected: type, sentence: str) -> None:
    pool.outcome = outcome
    with pytest.raises(expected, match=sentence.replace("(", r"\(").replace(")", r"\)")):
        await workers(pool).tokenize("acme", RAW, Limits())


async def test_a_worker_that_ends_with_the_engine_is_not_the_callers_fault(pool: Pool) -> None:
    pool.outcome = WorkerDied(1)
    closing = workers(pool)
    closing.start()
    await closing.close()
    with pytest.raises(EngineUnavailable):
        await closing.render("acme", Endpoint.CHAT, RAW, {}, Limits())


async def test_workers_that_cannot_start_are_not_the_callers_fault(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    pool.broken, pool.outcome = True, WorkerDied(1)
    broken = workers(pool)
    broken.start()
    assert broken._starting is not None
    await broken._starting
    with pytest.raises(InternalError):
        await broken.detokenize("acme", RAW, Limits())
    assert "can be started" in caplog.text
