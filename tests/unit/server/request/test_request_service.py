"""A request holds its adapter, its place in the gate and its line in the ledger exactly while it is served."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.datastructures import Headers

from adapters.errors import EngineGone, LoadFailed, RegistryUnavailable, StoreDamaged
from adapters.lifecycle.blends.blending import ScaledVersion
from adapters.models import EngineAdapter, Key, Role, Tenant, Version, VersionState
from adapters.registry.replicas.leases import LeaseKind
from sampling.endpoints import Endpoint
from sampling.limits import Limits
from server.admission import Admission
from server.admission.leased_parts import LeaseShort
from server.config.settings import Settings
from server.errors import AdapterUnavailable
from server.fairness.shares import OPERATOR_SETTINGS, Capacity
from server.request.body import Body
from server.request.context import Answer, Caller, JsonAnswer, RequestContext, Target
from server.request.gate import Gate
from server.request.request_service import RequestService
from server.request.sampling import SamplingResolver

NOW = datetime.now(UTC)
VERSION = Version("acme", "support", 2, 7, VersionState.READY, "", NOW)
ADAPTER = EngineAdapter(7, "acme/support@2#abc", Path("/x"))
KEY = Key("k", "acme", Role.INFERENCE, "lg-", "0", None, None, None, NOW)


class Parts:
    """What a request needs; counts what is held, and fails as it is told."""

    def __init__(self) -> None:
        self.held = self.tracked = 0
        self.failure: Exception | None = None
        self.served: list[RequestContext] = []
        self.worked: list[str] = []

    async def resolve(self, caller: Caller, model: object, *, sticky: str) -> Target:
        return Target(str(model), VERSION if model == "acme-support" else None)

    @contextlib.asynccontextmanager
    async def hold(self, version: Version) -> AsyncIterator[EngineAdapter]:
        if self.failure:
            raise self.failure
        self.held += 1
        try:
            yield ADAPTER
        finally:
            self.held -= 1

    @contextlib.asynccontextmanager
    async def hold_blend(self, tenant: str, blend: Sequence[ScaledVersion]) -> AsyncIterator[EngineAdapter]:
        async with self.hold(blend[0].version) as adapter:
            yield adapter

    @contextlib.contextmanager
    def track(self, context: RequestContext) -> Iterator[None]:
        self.tracked += 1
        try:
            yield
        finally:
            self.tracked -= 1

    async def read(self, tenant: str, endpoint: Endpoint, raw: bytes, limits: Limits) -> Body:
        self.worked.append(tenant)
        return Body({"model": "acme-support", "messages": []}, raw)

    async def render(self, tenant: str, endpoint: Endpoint, raw: bytes, lean: Any, limits: Limits) -> str:
        assert self.held == 0, "an adapter waits for a prompt"
        self.worked.append(lean["model"])
        return "rendered"

    def prompts(self) -> Any:
        return self

    async def handle(self, context: RequestContext, headers: Headers) -> Answer:
        self.served.append(context)
        return JsonAnswer({})


@pytest.fixture
def parts() -> Parts:
    return Parts()


@pytest.fixture
def service(parts: Parts) -> RequestService:
    admission = Admission(Capacity(kv_blocks=10, block_size_tokens=16, max_num_seqs=4))
    router: Any = SimpleNamespace(resolve=parts.resolve)
    sampling = SamplingResolver.from_settings(Settings(demo=True), {})
    gate = Gate(admission)
    return RequestService(
        router,
        sampling,
        admission,
        gate,
        parts.hold,
        parts.track,
        parts.handle,
        parts.prompts,
        parts.hold_blend,
    )


async def prepare(
    service: RequestService, model: str = "acme-support", tenant: str | None = "acme", **headers: str
) -> RequestContext:
    caller = Caller(KEY, Tenant(tenant) if tenant else None)
    body = Body({"model": model, "max_tokens": 5})
    return await service.prepare(caller, Endpoint.CHAT, body, Headers(headers), "r")


async def test_a_request_holds_its_adapter_until_it_ends(service: RequestService, parts: Parts) -> None:
    context = await prepare(service)
    assert context.held is None and context.sampling.origins["max_tokens"] == "request"
    async with service.serve(context, Headers()):
        assert (parts.held, parts.tracked, service.in_flight) == (1, 1, 1)
        assert parts.served[0].held == ADAPTER and parts.served[0].usage is context.usage
        assert context.usage.held_at is not None
    assert (parts.held, parts.tracked, service.in_flight) == (0, 0, 0)


async def test_the_base_model_holds_no_adapter(service: RequestService, parts: Parts) -> None:
    async with service.serve(await prepare(service, "base"), Headers()):
        assert parts.held == 0 and parts.served[0].held is None


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (LoadFailed("secret reason"), AdapterUnavailable),
        (StoreDamaged("secret reason"), AdapterUnavailable),
        (EngineGone("the engine is away"), EngineGone),
    ],
)
async def test_why_an_adapter_cannot_be_loaded_is_for_the_log(
    service: RequestService, parts: Parts, caplog: pytest.LogCaptureFixture, failure: Exception, expected: Any
) -> None:
    parts.failure = failure
    context = await prepare(service)
    with pytest.raises(expected) as raised:
        async with service.serve(context, Headers()):
            pass
    assert service.in_flight == parts.tracked == 0
    if expected is AdapterUnavailable:
        assert "secret" not in str(raised.value) and "secret reason" in caplog.text


async def test_each_tenant_has_a_salt_of_its_own(service: RequestService) -> None:
    acme, again = await prepare(service), await prepare(service)
    globex, operator = await prepare(service, tenant="globex"), await prepare(service, tenant=None)
    assert acme.cache_salt == again.cache_salt
    assert len({acme.cache_salt, globex.cache_salt, operator.cache_salt}) == 3
    assert operator.tenant_settings == OPERATOR_SETTINGS


async def test_options_are_shown_to_those_who_ask(service: RequestService) -> None:
    headers = {"x-loragate-debug": "1"}
    assert (await prepare(service, **headers)).debug and not (await prepare(service)).debug


async def test_a_small_body_is_read_here(service: RequestService, parts: Parts) -> None:
    body = await service.read(Caller(KEY, Tenant("acme")), Endpoint.CHAT, b'{"model": "m"}')
    assert body.fields == {"model": "m"} and body.raw is None and parts.worked == []


async def test_a_large_body_is_read_and_rendered_by_a_worker(service: RequestService, parts: Parts) -> None:
    raw = b'{"messages": [' + b"{}," * 300 + b"{}]}"
    caller = Caller(KEY, Tenant("acme"))
    body = await service.read(caller, Endpoint.CHAT, raw)
    assert parts.worked == ["acme"]
    context = await service.prepare(caller, Endpoint.CHAT, body, Headers(), "r")
    async with service.serve(context, Headers()):
        assert parts.served[0].body.rendered == "rendered"
        assert body.raw is None, "the body would be kept for as long as the answer runs"
    assert parts.worked == ["acme", "acme-support"]


@pytest.mark.parametrize("refused", [False, True])
async def test_the_wait_for_a_part_of_a_shared_limit_is_measured(
    service: RequestService, parts: Parts, refused: bool
) -> None:
    short = [LeaseShort("acme", {LeaseKind.TOKENS: 5})]

    async def handle(context: RequestContext, headers: Headers) -> Answer:
        await asyncio.sleep(0.05)  # the attempt's own time does not count
        if short:
            raise short.pop()
        return JsonAnswer({})

    async def admitted(attempt: Callable[[], Awaitable[None]]) -> None:
        with contextlib.suppress(LeaseShort):
            await attempt()
        await asyncio.sleep(0.02)
        if refused:
            raise RegistryUnavailable
        await attempt()

    service.handle, service.admitted = handle, admitted
    context = await prepare(service)
    with pytest.raises(RegistryUnavailable) if refused else contextlib.nullcontext():
        async with service.serve(context, Headers()):
            pass
    assert 0.02 <= context.usage.lease_s < 0.05


async def test_who_waits_for_no_part_has_no_wait(service: RequestService) -> None:
    context = await prepare(service)
    async with service.serve(context, Headers()):
        assert context.usage.lease_s == 0.0
