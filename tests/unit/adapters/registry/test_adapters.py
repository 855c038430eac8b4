from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest
import sqlalchemy as sa

from adapters.errors import (
    AliasConflict,
    BadName,
    BadValue,
    IllegalTransition,
    InUse,
    NameTaken,
    NothingToRollBack,
    UnknownAdapter,
    UnknownTenant,
    UnknownVersion,
)
from adapters.models import Actor, AliasTarget, Version, VersionState
from adapters.registry import Registry
from adapters.registry.schema import tables

BY = Actor("test", "k_test")
S = VersionState


async def make_ready(registry: Registry, tenant: str = "acme", adapter: str = "support") -> Version:
    version = await registry.versions.register(tenant, adapter, "upload", by=BY)
    version = await registry.versions.transition(version, S.FETCHED, by=BY)
    digest = f"{version.engine_id:064x}"
    version = await registry.versions.transition(
        version, S.VERIFIED, by=BY, digest=digest, rank=8, size_bytes=9
    )
    return await registry.versions.transition(version, S.READY, by=BY)


async def point(registry: Registry, *targets: AliasTarget | int) -> int:
    alias = await registry.aliases.get("acme", "support")
    wanted = [AliasTarget(t) if isinstance(t, int) else t for t in targets]
    changed = await registry.aliases.set(
        "acme", "support", wanted, expected_generation=alias.generation, by=BY
    )
    return changed.generation


async def test_versions_count_up_and_have_their_own_names(registry: Registry) -> None:
    first, second = await make_ready(registry), await make_ready(registry)
    assert (first.number, second.number) == (1, 2)
    assert second.engine_id > first.engine_id > 0
    assert first.public_name == "acme-support"
    assert first.engine_name == f"acme/support@1#{(first.digest or '')[:12]}"
    assert await registry.versions.get("acme", "support", 1) == first
    with pytest.raises(UnknownVersion):
        await registry.versions.get("acme", "support", 3)


async def test_racing_registrations_get_distinct_numbers_and_ids(registry: Registry) -> None:
    made = await asyncio.gather(
        *(registry.versions.register("acme", "x", "upload", by=BY) for _ in range(20))
    )
    assert sorted(version.number for version in made) == list(range(1, 21))
    assert len({version.engine_id for version in made}) == 20


async def test_engine_ids_are_never_given_twice(registry: Registry) -> None:
    last = await make_ready(registry)
    await registry.adapters.begin_removal("acme", "support", by=BY)
    await registry.tenants.remove("acme", by=BY)  # deletes every row of it
    fresh = await registry.versions.register("globex", "tools", "upload", by=BY)
    assert fresh.engine_id > last.engine_id
    renewed = await registry.versions.renew_engine_id(fresh, by=BY)
    assert renewed.engine_id > fresh.engine_id
    assert await registry.versions.renew_engine_id(fresh, by=BY) == renewed  # a late report changes nothing


async def test_names_are_checked(registry: Registry) -> None:
    for name in ("", "Sup", "-a", "a-", "a..b", "a@1", "a/b", "x" * 65, "a\n"):
        with pytest.raises(BadName):
            await registry.versions.register("acme", name, "upload", by=BY)
    with pytest.raises(UnknownTenant):
        await registry.versions.register("nobody", "support", "upload", by=BY)


async def test_an_adapter_cannot_shadow_the_base_model(registry: Registry) -> None:
    from adapters.models import Tenant

    await registry.tenants.add(Tenant("tiny"), by=BY)
    with pytest.raises(NameTaken, match="'tiny-base' is the name of the base model"):
        await registry.versions.register("tiny", "base", "upload", by=BY)


async def test_only_legal_moves_from_the_state_that_was_read(registry: Registry) -> None:
    version = await registry.versions.register("acme", "support", "upload", by=BY)
    with pytest.raises(
        IllegalTransition, match="registered and cannot become ready; it can become failed, fet"
    ):
        await registry.versions.transition(version, S.READY, by=BY)
    moved = await registry.versions.transition(version, S.FETCHED, by=BY)
    with pytest.raises(IllegalTransition, match="is now fetched, no longer registered"):
        await registry.versions.transition(version, S.FETCHED, by=BY)
    failed = await registry.versions.transition(moved, S.FAILED, by=BY, error="Rank 64 is above")
    assert (failed.state, failed.error) == (S.FAILED, "Rank 64 is above")
    with pytest.raises(IllegalTransition):
        await registry.versions.transition(failed, S.READY, by=BY)


async def test_of_racing_moves_one_wins(registry: Registry) -> None:
    version = await registry.versions.register("acme", "support", "upload", by=BY)
    moves = [registry.versions.transition(version, to, by=BY) for to in (S.FETCHED, S.FAILED) * 5]
    outcomes = await asyncio.gather(*moves, return_exceptions=True)
    assert sum(isinstance(outcome, Version) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, IllegalTransition) for outcome in outcomes) == 9


async def test_the_alias_changes_by_compare_and_swap(registry: Registry) -> None:
    await make_ready(registry)
    await make_ready(registry)
    assert (await registry.aliases.get("acme", "support")).generation == 0
    assert await point(registry, 1) == 1
    with pytest.raises(AliasConflict, match="at generation 1, not 0") as caught:
        await registry.aliases.set("acme", "support", [AliasTarget(2)], expected_generation=0, by=BY)
    assert (caught.value.expected, caught.value.found) == (0, 1)
    assert await point(registry, AliasTarget(2, 10), AliasTarget(1, 90)) == 2
    alias = await registry.aliases.get("acme", "support")
    assert alias.targets == (AliasTarget(1, 90.0), AliasTarget(2, 10.0))


async def test_of_racing_promotions_one_wins(registry: Registry) -> None:
    for _ in range(8):
        await make_ready(registry)
    for generation in (0, 1):  # the first one inserts, the second updates
        races = [
            registry.aliases.set("acme", "support", [AliasTarget(n)], expected_generation=generation, by=BY)
            for n in range(1, 9)
        ]
        outcomes = await asyncio.gather(*races, return_exceptions=True)
        assert sum(isinstance(outcome, AliasConflict) for outcome in outcomes) == 7, outcomes
    assert [change.generation for change in await registry.aliases.history("acme", "support")] == [2, 1]


async def test_an_alias_takes_ready_versions_only(registry: Registry) -> None:
    version = await registry.versions.register("acme", "support", "upload", by=BY)
    with pytest.raises(
        IllegalTransition, match="acme-support@1 is registered, and only a ready version can serve"
    ):
        await point(registry, 1)
    with pytest.raises(UnknownVersion):
        await point(registry, 2)
    for bad in ([], [1, 1], [AliasTarget(1, 0)], [AliasTarget(1, float("nan")), AliasTarget(2, 1)]):
        with pytest.raises(BadValue):
            await point(registry, *bad)
    assert (await registry.aliases.get("acme", "support")).generation == 0
    assert version.state is S.REGISTERED


async def test_rollback_goes_back_and_never_returns_to_what_it_left(registry: Registry) -> None:
    for _ in range(4):
        await make_ready(registry)
    with pytest.raises(NothingToRollBack):
        await registry.aliases.previous("acme", "support")

    async def roll_back() -> tuple[AliasTarget, ...]:
        back = await registry.aliases.previous("acme", "support")
        alias = await registry.aliases.get("acme", "support")
        changed = await registry.aliases.set(
            "acme",
            "support",
            back.targets,
            expected_generation=alias.generation,
            by=BY,
            restored=back.generation,
        )
        return changed.targets

    await point(registry, 1)
    await point(registry, AliasTarget(1, 9), AliasTarget(2, 1))
    assert await roll_back() == (AliasTarget(1),)  # a canary ends
    await point(registry, 2)
    await point(registry, AliasTarget(2, 9), AliasTarget(3, 1))
    await point(registry, 3)
    assert await roll_back() == (AliasTarget(2),)  # not the split
    assert await roll_back() == (AliasTarget(1),)  # not 3 again
    with pytest.raises(NothingToRollBack):
        await roll_back()
    await point(registry, 4)
    assert await roll_back() == (AliasTarget(1),)  # 2 and 3 were rolled back from
    assert (await registry.aliases.history("acme", "support"))[0].restored is not None


async def test_rollback_passes_over_retired_versions(registry: Registry) -> None:
    versions = [await make_ready(registry) for _ in range(3)]
    for number in (1, 2, 3):
        await point(registry, number)
    draining = await registry.versions.transition(versions[1], S.DRAINING, by=BY)
    await registry.versions.transition(draining, S.RETIRED, by=BY)
    assert (await registry.aliases.previous("acme", "support")).targets == (AliasTarget(1),)


async def test_a_version_in_service_cannot_be_drained(registry: Registry) -> None:
    version = await make_ready(registry)
    await point(registry, 1)
    with pytest.raises(InUse, match="Version 1 still serves 'acme-support'"):
        await registry.versions.transition(version, S.DRAINING, by=BY)


async def test_pins_are_remembered_and_end_with_the_version(registry: Registry) -> None:
    version = await registry.versions.set_pinned(await make_ready(registry), True, by=BY)
    assert (await registry.versions.get("acme", "support", 1)).pinned
    drained = await registry.versions.transition(version, S.DRAINING, by=BY)
    assert not drained.pinned
    with pytest.raises(IllegalTransition):
        await registry.versions.set_pinned(drained, True, by=BY)


async def test_removing_an_adapter_drains_it_and_its_numbers_go_on(registry: Registry) -> None:
    ready = await make_ready(registry)
    half = await registry.versions.register("acme", "support", "upload", by=BY)
    await point(registry, 1)
    drained = await registry.adapters.begin_removal("acme", "support", by=BY)
    assert [(v.number, v.state) for v in drained] == [(1, S.DRAINING)]
    assert (await registry.versions.get("acme", "support", half.number)).state is S.FAILED
    for call in (
        registry.adapters.resolve("acme", "acme-support"),
        registry.adapters.begin_removal("acme", "support", by=BY),
        registry.aliases.set("acme", "support", [AliasTarget(1)], expected_generation=2, by=BY),
    ):
        with pytest.raises(UnknownAdapter):
            await call
    assert not await registry.adapters.list()
    assert ready.digest in await registry.versions.digests()
    await registry.versions.transition(drained[0], S.RETIRED, by=BY)
    assert not await registry.versions.digests()
    again = await make_ready(registry)
    assert again.number == 3
    assert await point(registry, 3) == 3  # so an old generation never fits by chance


async def test_resolve_is_the_tenants_own_and_shows_only_what_serves(registry: Registry) -> None:
    await make_ready(registry)
    await registry.versions.register("acme", "support", "upload", by=BY)
    await point(registry, 1)
    view = await registry.adapters.resolve("acme", "acme-support")
    assert [version.number for version in view.versions] == [1]
    assert view.alias.targets == (AliasTarget(1),)
    told = []
    for tenant, name in (("globex", "acme-support"), ("globex", "acme-nothing"), ("acme", "support")):
        with pytest.raises(UnknownAdapter) as caught:
            await registry.adapters.resolve(tenant, name)
        told.append(str(caught.value).replace(name, "NAME"))
    assert len(set(told)) == 1


async def test_names_with_dashes_stay_apart(registry: Registry) -> None:
    await make_ready(registry, "acme", "a-b")
    await make_ready(registry, "acme", "a")
    listed = await registry.adapters.list("acme")
    assert [view.adapter.public_name for view in listed] == ["acme-a", "acme-a-b"]


async def test_a_thousand_adapters_are_listed_in_one_query(registry: Registry) -> None:
    first = await make_ready(registry, "globex", "a0")
    async with registry._database.write() as connection:
        adapter = (await connection.execute(sa.select(tables.adapters))).mappings().one()
        version = (await connection.execute(sa.select(tables.versions))).mappings().one()
        names = [f"a{n}" for n in range(1, 1000)]
        rows = [{**adapter, "name": name, "public_name": f"globex-{name}"} for name in names]
        await connection.execute(sa.insert(tables.adapters), rows)
        rows = [{**version, "adapter": name, "engine_id": 1000 + n} for n, name in enumerate(names)]
        await connection.execute(sa.insert(tables.versions), rows)
    statements = []
    sync_engine = registry._database.engine.sync_engine
    sa.event.listen(sync_engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    started_s = time.perf_counter()
    listed = await registry.adapters.list()
    assert time.perf_counter() - started_s < 1.0
    assert len(listed) == 1000 and listed[0].versions == (first,)
    assert all(len(view.versions) == 1 for view in listed)
    assert [s for s in statements if s.startswith("SELECT")] == [s for s in statements if "FROM" in s][:1]
    names = [view.adapter.public_name for view in listed]
    assert all(a < b for a, b in pairwise(names))


@pytest.mark.parametrize(("table", "column"), [("keys", "sha256"), ("adapters", "public_name")])
async def test_the_hot_look_ups_use_an_index(registry: Registry, table: str, column: str) -> None:
    query = f"SELECT * FROM {table} WHERE {column} = 'x'"
    async with registry._database.read() as connection:
        if connection.dialect.name == "postgresql":
            await connection.execute(sa.text("SET LOCAL enable_seqscan = off"))  # the tables are tiny here
            plan = str((await connection.execute(sa.text("EXPLAIN " + query))).all())
            assert f"uq_{table}_{column}" in plan
        else:
            plan = str((await connection.execute(sa.text("EXPLAIN QUERY PLAN " + query))).all())
            assert f"USING INDEX sqlite_autoindex_{table}" in plan and f"({column}=?)" in plan


async def test_versions_are_counted_by_tenant_and_state(registry: Registry) -> None:
    await make_ready(registry)
    await make_ready(registry)
    await registry.versions.register("acme", "tools", "upload", by=BY)
    assert await registry.versions.count_states() == {("acme", "ready"): 2, ("acme", "registered"): 1}
