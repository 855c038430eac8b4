"""Grammars are prepared once per tenant, ended when their callers leave, and refused with a reason."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from vllm.sampling_params import SamplingParams, StructuredOutputsParams

from adapters.models import Key, Role, Tenant
from adapters.tenant_settings import TenantSettings
from sampling.endpoints import Endpoint
from sampling.errors import BodyLimitExceeded
from sampling.limits import Limits
from sampling.resolution import Resolved
from server.admission.errors import TooManyConcurrent
from server.engine.decoding.grammars import files, preparation
from server.engine.decoding.grammars.errors import GrammarRefused, TooComplex
from server.engine.decoding.grammars.preparation import Grammars
from server.engine.decoding.grammars.worker import Order, Outcome
from server.engine.workers.errors import WorkerDied, WorkRefused, WorkTimedOut
from server.errors import InvalidRequest
from server.request.context import Caller, RequestContext, Target

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


class Pool:
    """Writes the file as a worker would, after `outcomes` have been raised; it waits while `hold` is set."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.limits_s: list[float] = []
        self.outcomes: list[Exception] = []
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.ended = 0

    async def start(self) -> None:
        """It has no processes."""

    async def close(self) -> None:
        """It has no processes."""

    async def run(self, tenant: str, task: Callable[..., Any], order: Order, *, limit_s: float) -> Outcome:
        self.orders.append(order)
        self.limits_s.append(limit_s)
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.ended += 1
            raise
        if self.outcomes:
            raise self.outcomes.pop(0)
        prepared = files.Prepared("xgrammar", "JSON", False, b"{}")
        size = files.write_grammar(Path(order.path), Path(order.scratch), prepared)
        return Outcome("xgrammar", False, size, 0.0)


@pytest.fixture
async def pool() -> Pool:
    return Pool()


@pytest.fixture
async def grammars(tmp_path: Path, pool: Pool) -> Grammars:
    return Grammars(tmp_path / "grammars", pool)  # type: ignore[arg-type]


def context(
    tenant: str = "acme", limits: Limits | None = None, field: str = "response_format"
) -> RequestContext:
    key = Key("k", tenant, Role.INFERENCE, "lg-", "0", None, None, None, datetime.now(UTC))
    sampling = Resolved({field: SCHEMA}, {}, ())
    caller = Caller(key, Tenant(tenant))
    target = Target("base", None)
    settings, bounds = TenantSettings(), limits or Limits(compile_s=10)
    return RequestContext("r", Endpoint.CHAT, caller, target, sampling, settings, "salt", limits=bounds)


def wants(**form: Any) -> SamplingParams:
    return SamplingParams(structured_outputs=StructuredOutputsParams(**(form or {"json": SCHEMA})))


async def prepare(grammars: Grammars, about: RequestContext, params: SamplingParams | None = None) -> Path:
    """Returns the file that the engine is told."""
    params = params or wants()
    async with grammars.prepared(about, params):
        name = params.structured_outputs.grammar
        assert name.startswith(files.PREFIX)
        path = grammars.folder / name.removeprefix(files.PREFIX)
        assert path.exists()
        return path


async def test_a_request_without_a_grammar_is_not_touched(grammars: Grammars, pool: Pool) -> None:
    for params in (SamplingParams(), SamplingParams(structured_outputs=None)):
        async with grammars.prepared(context(), params):
            assert params.structured_outputs is None
    assert not pool.orders


async def test_the_same_schema_is_compiled_once_for_each_tenant(grammars: Grammars, pool: Pool) -> None:
    first = await prepare(grammars, context())
    assert await prepare(grammars, context()) == first and len(pool.orders) == 1
    assert await prepare(grammars, context("globex")) != first and len(pool.orders) == 2


async def test_what_an_earlier_engine_left_is_removed(tmp_path: Path, pool: Pool) -> None:
    (tmp_path / "grammars").mkdir()
    (tmp_path / "grammars" / "old").touch()
    grammars = Grammars(tmp_path / "grammars", pool)  # type: ignore[arg-type]
    assert not list(grammars.folder.iterdir())


async def test_a_file_in_use_outlives_the_bound_of_the_disk(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammars._cache._max_bytes = 1
    params = wants()
    async with grammars.prepared(context(), params):
        assert [each.stat().st_size > 1 for each in grammars.folder.iterdir()] == [True]
    assert not list(grammars.folder.iterdir())


async def test_requests_wait_for_the_same_compilation_which_ends_with_the_last_of_them(
    grammars: Grammars, pool: Pool
) -> None:
    pool.may_end.clear()
    first, second = (asyncio.ensure_future(prepare(grammars, context())) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.wait({first})
    assert len(pool.orders) == 1 and not pool.ended
    second.cancel()
    await asyncio.wait({second})
    await asyncio.sleep(0)
    assert pool.ended == 1 and not grammars._flights
    pool.may_end.set()
    await prepare(grammars, context())  # the next one begins anew
    assert len(pool.orders) == 2


async def test_half_of_the_time_is_for_the_library_that_compiles_least(
    grammars: Grammars, pool: Pool
) -> None:
    pool.outcomes = [WorkTimedOut(5.0)]
    await prepare(grammars, context())
    assert [order.tries_all for order in pool.orders] == [True, False] and pool.limits_s == [5.0, 5.0]


@pytest.mark.parametrize(
    ("outcomes", "code", "text"),
    [
        ([GrammarRefused("xgrammar: no")], "invalid_grammar", "cannot be enforced: xgrammar: no."),
        ([TooComplex("it is large")], "grammar_too_complex", "too complex: it is large. Make the schema"),
        ([WorkTimedOut(5.0)] * 2, "grammar_too_complex", r"longer than 10 s \(limit 'compile_s'"),
        ([WorkerDied(1 << 20)] * 2, "grammar_too_complex", "crashed or needed more than 2048 MiB"),
    ],
)
async def test_a_refusal_is_the_callers_and_says_why(
    grammars: Grammars, pool: Pool, outcomes: list[Exception], code: str, text: str
) -> None:
    pool.outcomes = outcomes
    with pytest.raises(InvalidRequest, match=text) as caught:
        await prepare(grammars, context())
    assert (caught.value.code, caught.value.param) == (code, "response_format")
    assert not list(grammars.folder.iterdir()) and not grammars._cache._pinned
    await prepare(grammars, context())  # a refusal is not kept: the limits of the next request may differ


async def test_a_tenant_with_many_waiting_grammars_is_asked_to_wait(grammars: Grammars, pool: Pool) -> None:
    pool.outcomes = [WorkRefused(32)]
    with pytest.raises(TooManyConcurrent, match="32 schemas or grammars of yours wait") as caught:
        await prepare(grammars, context())
    assert caught.value.retry_after_s == 10


async def test_a_failure_of_ours_is_not_the_callers(grammars: Grammars, pool: Pool) -> None:
    pool.outcomes = [ZeroDivisionError()]
    with pytest.raises(ZeroDivisionError):
        await prepare(grammars, context())


@pytest.mark.parametrize(
    ("limits", "form", "name", "used", "allowed"),
    [
        (Limits(schema_bytes=20), {"json": SCHEMA}, "schema_bytes", 60, 20),
        (Limits(schema_bytes=20), {"json": '{"description": "a long text"}'}, "schema_bytes", 30, 20),
        (Limits(schema_bytes=20), {"regex": "a" * 21}, "schema_bytes", 21, 20),
        (Limits(schema_bytes=20), {"choice": ["a" * 20]}, "schema_bytes", 24, 20),
        (Limits(schema_depth=2), {"json": SCHEMA}, "schema_depth", 3, 2),
    ],
)
async def test_size_and_depth_are_checked_first(
    grammars: Grammars, pool: Pool, limits: Limits, form: dict[str, Any], name: str, used: int, allowed: int
) -> None:
    with pytest.raises(BodyLimitExceeded) as caught:
        await prepare(grammars, context(limits=limits), wants(**form))
    assert f"'{name}'" in str(caught.value) and f"at most {allowed}" in str(caught.value)
    assert str(used) in str(caught.value) and not pool.orders


async def test_half_a_surrogate_pair_is_a_mistake_of_the_caller(grammars: Grammars) -> None:
    with pytest.raises(InvalidRequest, match="not valid text"):
        await prepare(grammars, context(), wants(regex="\ud800"))


@pytest.mark.parametrize("field", ["tools", "text", "structured_outputs"])
async def test_the_refusal_names_the_field(grammars: Grammars, pool: Pool, field: str) -> None:
    pool.outcomes = [GrammarRefused("no")]
    with pytest.raises(InvalidRequest) as caught:
        await prepare(grammars, context(field=field))
    assert caught.value.param == field


async def test_without_a_limit_of_time_the_work_still_ends(grammars: Grammars, pool: Pool) -> None:
    await prepare(grammars, context(limits=Limits()))
    assert pool.limits_s == [preparation._NO_LIMIT_S / 2]
