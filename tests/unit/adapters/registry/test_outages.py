"""A real PostgreSQL that stops, freezes or is cut off: nothing waits long, nothing is held, and it is found again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import sqlalchemy as sa
from postgres_process import PostgresProcess, TcpProxy, postgres_process, tcp_proxy

from adapters.errors import RegistryUnavailable, RegistryUnusable
from adapters.models import SYSTEM, BatchId, Tenant, Usage
from adapters.registry import Registry, connect, migrate
from adapters.registry.billing.spending import Spent
from adapters.registry.cache import LOOK_UP_TIMEOUT_S, RegistryCache
from adapters.registry.database import utc_now
from adapters.registry.outages.availability import PROBE_TIMEOUT_S

pytestmark = pytest.mark.slow  # starts, freezes and stops PostgreSQL servers


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresProcess]:
    with postgres_process() as server:
        yield server


@pytest.fixture(scope="module")
def url(postgres: PostgresProcess) -> str:
    made = postgres.create("outages")
    asyncio.run(migrate(made))
    return made


@pytest.fixture(scope="module")
def proxy(postgres: PostgresProcess) -> Iterator[TcpProxy]:
    with tcp_proxy(postgres) as running:
        yield running


@pytest.fixture
async def registry(url: str, proxy: TcpProxy) -> AsyncIterator[Registry]:
    engine = connect(f"postgresql://postgres@127.0.0.1:{proxy.port}/outages")
    yield Registry(engine, grace_s=30)
    await engine.dispose()


Outage = tuple[Callable[[], None], Callable[[], None]]


@pytest.fixture(params=["stopped", "frozen", "swallowed", "refused"])
def outage(request: pytest.FixtureRequest, postgres: PostgresProcess, proxy: TcpProxy) -> Outage:
    """How the database goes away, and how it comes back."""
    kinds: dict[str, Outage] = {
        "stopped": (postgres.stop, postgres.start),
        "frozen": (postgres.freeze, postgres.thaw),
        "swallowed": (lambda: proxy.set("swallow"), lambda: proxy.set("forward")),
        "refused": (lambda: proxy.set("refuse"), lambda: proxy.set("forward")),
    }
    return kinds[request.param]


async def test_cached_entries_last_and_nothing_waits_long(registry: Registry, outage: Outage) -> None:
    leave, come_back = outage
    cache: RegistryCache[str, Tenant] = RegistryCache(registry.availability, registry.tenants.get)
    name = f"t{time.monotonic_ns()}"
    await registry.tenants.add(Tenant(name), by=SYSTEM)
    await cache.get(name)
    watching = asyncio.create_task(registry.availability.run())
    await asyncio.gather(
        *(registry.tenants.list() for _ in range(8))
    )  # connections that the outage finds open
    leave()
    try:
        slowest = 0.0
        for _ in range(60):
            began = time.monotonic()
            assert (await cache.get(name)).name == name
            slowest = max(slowest, time.monotonic() - began)
            await asyncio.sleep(0.05)
        assert slowest < PROBE_TIMEOUT_S + 1
        assert registry.availability.known_away
        began = time.monotonic()
        for refused in (
            cache.get("never-seen"),
            registry.tenants.list(),
            registry.spending.of_tenants(utc_now()),
        ):
            with pytest.raises(RegistryUnavailable):
                await refused
        assert time.monotonic() - began < 0.5, "a database that is known to be away is not waited for"
    finally:
        come_back()
    began = time.monotonic()
    while registry.availability.known_away:
        assert time.monotonic() - began < 15
        await asyncio.sleep(0.05)
    assert name in {tenant.name for tenant in await registry.tenants.list()}
    assert registry.availability.outage_s > 2
    watching.cancel()
    await asyncio.wait({watching})


async def test_look_ups_that_the_outage_finds_under_way_end_and_free_their_connections(
    registry: Registry, postgres: PostgresProcess
) -> None:
    cache: RegistryCache[str, Tenant] = RegistryCache(registry.availability, registry.tenants.get)
    await registry.availability.state()
    await asyncio.gather(*(registry.tenants.list() for _ in range(15)))
    postgres.freeze()
    try:
        began = time.monotonic()
        waiting = [asyncio.create_task(cache.get(f"n{number}")) for number in range(40)]
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, RegistryUnavailable) for result in results)
        assert time.monotonic() - began < PROBE_TIMEOUT_S + LOOK_UP_TIMEOUT_S + 1
    finally:
        postgres.thaw()
    async with asyncio.timeout(20):
        while True:
            try:
                await asyncio.gather(*(registry.tenants.list() for _ in range(15)))
                break
            except RegistryUnavailable:
                await asyncio.sleep(0.2)


async def test_a_statement_has_a_limit(url: str, postgres: PostgresProcess) -> None:
    engine = connect(url, statement_timeout_s=0.5)
    registry = Registry(engine)
    await registry.tenants.list()
    postgres.freeze()
    try:
        for work in (registry.tenants.list(), registry.tenants.add(Tenant("frozen"), by=SYSTEM)):
            began = time.monotonic()
            with pytest.raises(RegistryUnavailable):
                await work
            assert time.monotonic() - began < 8
    finally:
        postgres.thaw()
    await engine.dispose()


async def test_a_batch_whose_commit_got_no_answer_counts_once(url: str, proxy: TcpProxy) -> None:
    engine = connect(f"postgresql://postgres@127.0.0.1:{proxy.port}/outages", statement_timeout_s=0.5)
    registry = Registry(engine)
    batch = [Usage("acme", "support", 1, utc_now(), requests=1, generated_tokens=7)]
    batch_id = BatchId(f"w{time.monotonic_ns()}", 1)
    before = (await registry.spending.of_tenants(utc_now())).get("acme", Spent()).tokens

    def lose_the_answer(connection: sa.Connection) -> None:
        proxy.set("deaf")

    sa.event.listen(engine.sync_engine, "commit", lose_the_answer)
    with pytest.raises(RegistryUnavailable):
        await registry.usage.add(batch, batch_id)
    sa.event.remove(engine.sync_engine, "commit", lose_the_answer)
    proxy.set("forward")
    assert (await registry.spending.of_tenants(utc_now()))["acme"].tokens == before + 7, "it was committed"
    assert not await registry.usage.add(batch, batch_id)
    assert (await registry.spending.of_tenants(utc_now()))["acme"].tokens == before + 7
    assert await registry.usage.add(batch, BatchId(batch_id.writer, 2))
    assert (await registry.spending.of_tenants(utc_now()))["acme"].tokens == before + 14
    await engine.dispose()


async def test_a_refused_user_is_told_apart_from_an_outage(
    postgres: PostgresProcess, proxy: TcpProxy
) -> None:
    for wrong in ("postgres@127.0.0.1:{}/missing", "nobody-here@127.0.0.1:{}/outages"):
        engine = connect(f"postgresql://{wrong.format(proxy.port)}")
        with pytest.raises(RegistryUnusable, match="refuses the user, or has no such database") as raised:
            await Registry(engine).tenants.list()
        assert "127.0.0.1" not in str(raised.value)
        await engine.dispose()


async def test_a_server_that_falls_silent_in_a_change_blocks_the_others_for_seconds_only(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.registry.database._IDLE_IN_TRANSACTION_MS", 500)
    silent, other = connect(url), connect(url)
    holding = asyncio.Event()

    async def fall_silent() -> None:
        async with Registry(silent)._database.change(SYSTEM, "tenant.set", "x") as connection:
            from adapters.registry.database import count_up

            await count_up(connection, "revision")
            holding.set()
            await asyncio.sleep(3)

    stuck = asyncio.create_task(fall_silent())
    await holding.wait()
    began = time.monotonic()
    await Registry(other).tenants.add(Tenant(f"t{time.monotonic_ns()}"), by=SYSTEM)
    assert time.monotonic() - began < 2.5
    with pytest.raises(RegistryUnavailable):
        await stuck
    for engine in (silent, other):
        await engine.dispose()


async def test_closing_the_pool_does_not_wait_for_a_server_that_is_frozen(
    url: str, postgres: PostgresProcess
) -> None:
    engine = connect(url)
    await asyncio.gather(*(Registry(engine).tenants.list() for _ in range(6)))
    postgres.freeze()
    try:
        began = time.monotonic()
        await engine.dispose()
        assert time.monotonic() - began < 1
    finally:
        postgres.thaw()
