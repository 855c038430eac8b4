from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest

from adapters.errors import (
    AliasConflict,
    ArtifactRefused,
    EngineGone,
    IllegalTransition,
    InUse,
    LoadFailed,
    NothingToRollBack,
    PinLimit,
    ProbeFailed,
    SourceUnavailable,
    StoreDamaged,
    UnknownVersion,
    VersionRetired,
)
from adapters.models import AliasTarget, VersionState
from adapters.registry import Registry
from adapters.registry.state_machine import TRANSITIONS, check_transition
from adapters.sources import ArchiveSource, LocalSource
from adapters.sources import fetch as real_fetch
from tests.unit.adapters.building import make_config
from tests.unit.adapters.lifecycle.support import BY, Plant, another, build_plant

S = VersionState


@pytest.fixture
async def plant(sqlite_registry: Registry, tmp_path: Path) -> AsyncIterator[Plant]:
    plant = build_plant(sqlite_registry, tmp_path)
    yield plant
    await plant.lifecycle.aclose()
    await plant.residency.aclose()


async def states(plant: Plant) -> list[str]:
    return [v.state.value for v in (await plant.registry.adapters.get("acme", "support")).versions]


async def until(condition: object) -> None:
    deadline_s = time.monotonic() + 5
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.005)


def test_the_moves_are_as_drawn() -> None:
    assert set(TRANSITIONS) == set(S)
    drawn = {(old, new) for old, news in TRANSITIONS.items() for new in news}
    path = [S.REGISTERED, S.FETCHED, S.VERIFIED, S.READY, S.RESIDENT, S.DRAINING, S.RETIRED]
    expected = set(pairwise(path)) | {(S.RESIDENT, S.READY), (S.READY, S.DRAINING)}
    expected |= {(old, S.FAILED) for old in path[:4]}
    assert drawn == expected
    for old in S:
        for new in S:
            if (old, new) not in drawn:
                with pytest.raises(IllegalTransition):
                    check_transition("x", old, new)


async def test_adding_makes_a_ready_version_from_a_copy_of_our_own(plant: Plant) -> None:
    source = plant.source(0, training={"seed": 7})
    version = await plant.lifecycle.register(
        "acme", "support", source, by=BY, sampling_defaults={"temperature": 0.1}
    )
    assert (version.state, version.rank, version.source) == (S.READY, 4, "folder source0")
    assert version.training == {"seed": 7} and version.sampling_defaults == {"temperature": 0.1}
    adapter = plant.lifecycle.loading.engine_adapter(version)
    assert adapter.engine_id == version.engine_id and adapter.path.name == version.digest
    for path in source.path.iterdir():
        path.write_bytes(b"rewritten after registration")
    assert plant.store.check([version.digest or ""], deep=True) == ()
    steps = [entry.action for entry in await plant.registry.audit.list(subject="acme-support")]
    assert steps[::-1] == ["version.register", "version.fetched", "version.verified", "version.ready"]
    assert not plant.loader.calls  # nothing reaches the engine before a promotion or a request


async def test_a_refused_adapter_is_listed_with_its_reason_and_leaves_no_file(plant: Plant) -> None:
    with pytest.raises(ArtifactRefused, match="Rank 64"):
        await plant.lifecycle.register("acme", "support", plant.source(config=make_config(r=64)), by=BY)
    with pytest.raises(SourceUnavailable):
        await plant.lifecycle.register("acme", "support", LocalSource(plant.folder / "none"), by=BY)
    (refused, missing) = (await plant.registry.adapters.get("acme", "support")).versions
    assert refused.state is S.FAILED and "Rank 64 is above --max-lora-rank 16" in (refused.error or "")
    assert missing.state is S.FAILED and "does not exist" in (missing.error or "")
    assert not list((plant.folder / "store").rglob("*.json"))
    with pytest.raises(
        IllegalTransition, match="acme-support@1 is failed, and only a ready version can serve"
    ):
        await plant.lifecycle.promote("acme", "support", 1, by=BY)


async def test_an_upload_that_breaks_off_or_is_cancelled_fails_its_version(plant: Plant) -> None:
    async def broken(wait_s: float) -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(wait_s)
        raise ConnectionResetError("/secret")

    with pytest.raises(ConnectionResetError):
        await plant.lifecycle.register("acme", "support", ArchiveSource(broken(0)), by=BY)
    task = asyncio.create_task(plant.lifecycle.register("acme", "support", ArchiveSource(broken(60)), by=BY))
    await until(lambda: list((plant.folder / "store" / "staging").glob("*/files/upload")))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    versions = (await plant.registry.adapters.get("acme", "support")).versions
    assert [version.error for version in versions] == ["Adding it was interrupted; add it again."] * 2
    assert not list((plant.folder / "store" / "staging").iterdir())


async def test_an_adapter_removed_while_it_is_added_is_not_resurrected(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def remove_first(*args: object, **options: object) -> object:
        await plant.lifecycle.remove("acme", "support", by=BY)
        return await real_fetch(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("adapters.lifecycle.adding.fetch", remove_first)
    with pytest.raises(IllegalTransition):
        await plant.add()
    assert await states(plant) == ["failed"]


async def test_promotion_loads_probes_and_only_then_flips(plant: Plant) -> None:
    first, second = await plant.add(0), await plant.add(1)
    alias = await plant.lifecycle.promote("acme", "support", first, by=BY)
    assert (alias.generation, alias.targets) == (1, (AliasTarget(first),))
    version = await plant.registry.versions.get("acme", "support", second)
    plant.loader.bad_probes = {version.engine_id}
    with pytest.raises(ProbeFailed):
        await plant.lifecycle.promote("acme", "support", second, by=BY)
    assert await plant.registry.aliases.get("acme", "support") == alias
    plant.loader.bad_probes = set()
    await plant.lifecycle.promote("acme", "support", second, by=BY)
    assert plant.lifecycle.state_of(version) is S.RESIDENT
    old = await plant.registry.versions.get("acme", "support", first)
    await until(lambda: old.engine_id not in plant.loader.ids)  # really unloaded
    assert plant.lifecycle.state_of(old) is S.READY


async def test_requests_in_flight_finish_on_the_version_they_began_with(plant: Plant) -> None:
    first, second = await plant.add(0), await plant.add(1)
    await plant.lifecycle.promote("acme", "support", first, by=BY)
    old = await plant.registry.versions.get("acme", "support", first)
    async with plant.lifecycle.loading.hold(old) as held:
        await plant.lifecycle.promote("acme", "support", second, by=BY)
        await asyncio.sleep(0.1)
        assert held.engine_id in plant.loader.ids
    await until(lambda: old.engine_id not in plant.loader.ids)


async def test_of_racing_promotions_one_wins(plant: Plant) -> None:
    numbers = [await plant.add(seed) for seed in range(3)]
    races = [plant.lifecycle.promote("acme", "support", number, by=BY) for number in numbers]
    outcomes = await asyncio.gather(*races, return_exceptions=True)
    assert sum(isinstance(outcome, AliasConflict) for outcome in outcomes) == 2, outcomes
    with pytest.raises(AliasConflict, match="at generation 1, not 7"):
        await plant.lifecycle.promote("acme", "support", 1, by=BY, expected_generation=7)


async def test_a_canary_is_split_and_rolled_back(plant: Plant) -> None:
    first, second = await plant.add(0), await plant.add(1)
    with pytest.raises(NothingToRollBack):
        await plant.lifecycle.rollback("acme", "support", by=BY)
    await plant.lifecycle.promote("acme", "support", first, by=BY)
    targets = (AliasTarget(first, 90), AliasTarget(second, 10))
    alias = await plant.lifecycle.split("acme", "support", targets, by=BY)
    assert alias.targets == targets and len(plant.loader.ids) == 2
    with pytest.raises(AliasConflict):
        await plant.lifecycle.rollback("acme", "support", by=BY, expected_generation=1)
    back = await plant.lifecycle.rollback("acme", "support", by=BY)
    assert back.targets == (AliasTarget(first),)
    await until(lambda: len(plant.loader.ids) == 1)


async def test_a_load_that_fails_changes_nothing_and_burns_its_engine_id(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = await plant.add()
    stale = await plant.registry.versions.get("acme", "support", number)
    plant.loader.refused = {stale.engine_id}
    with pytest.raises(LoadFailed):
        await plant.lifecycle.promote("acme", "support", number, by=BY)
    fresh = await plant.registry.versions.get("acme", "support", number)
    assert fresh.engine_id > stale.engine_id and fresh.state is S.READY
    assert (await plant.registry.aliases.get("acme", "support")).generation == 0
    calls = list(plant.loader.calls)
    with pytest.raises(LoadFailed):  # no second try within the pause
        async with plant.lifecycle.loading.hold(fresh):
            pass
    assert plant.loader.calls == calls
    monkeypatch.setattr("adapters.lifecycle.load_failures._RETRY_AFTER_S", 0.0)
    plant.lifecycle.loading._load_failures._pauses.clear()
    async with plant.lifecycle.loading.hold(stale) as held:  # read before the renewal
        assert held.engine_id == fresh.engine_id
    assert [call for call in plant.loader.calls if call[0] == "load"] == [
        ("load", stale.engine_id),
        ("load", fresh.engine_id),
    ]


async def test_a_dead_engine_burns_no_id(plant: Plant) -> None:
    number = await plant.add()
    before = await plant.registry.versions.get("acme", "support", number)
    plant.loader.gone = True
    with pytest.raises(EngineGone):
        await plant.lifecycle.promote("acme", "support", number, by=BY)
    assert await plant.registry.versions.get("acme", "support", number) == before
    plant.loader.gone = False
    await plant.residency.reset()
    await plant.lifecycle.promote("acme", "support", number, by=BY)


async def test_an_error_inside_a_hold_is_not_taken_for_a_failed_load(plant: Plant) -> None:
    version = await plant.lifecycle.register("acme", "support", plant.source(), by=BY)
    with pytest.raises(LoadFailed, match="the caller's own"):
        async with plant.lifecycle.loading.hold(version):
            raise LoadFailed("the caller's own")
    assert await plant.registry.versions.get("acme", "support", 1) == version


async def test_what_vanished_from_the_store_is_told_before_the_engine_sees_it(plant: Plant) -> None:
    version = await plant.lifecycle.register("acme", "support", plant.source(), by=BY)
    async with plant.lifecycle.loading.hold(version):
        pass
    folder = plant.lifecycle.loading.engine_adapter(version).path
    folder.chmod(0o755)
    (folder / "adapter_model.safetensors").unlink()
    async with plant.lifecycle.loading.hold(version):  # still loaded
        pass
    await plant.residency.retire(0)
    plant.residency.dismiss(version.engine_id)
    await until(lambda: not plant.loader.ids)
    calls = len(plant.loader.calls)
    with pytest.raises(StoreDamaged, match="add the adapter again"):
        async with plant.lifecycle.loading.hold(version):
            pass
    assert len(plant.loader.calls) == calls
    await plant.add(0)  # the same weights again repair both versions
    async with plant.lifecycle.loading.hold(version):
        pass


async def test_pins_stay_and_have_a_limit(plant: Plant) -> None:
    numbers = [await plant.add(seed) for seed in range(4)]
    await plant.lifecycle.loading.pin("acme", "support", numbers[0], by=BY)
    await plant.lifecycle.loading.pin("acme", "support", numbers[1], by=BY)
    with pytest.raises(PinLimit):
        await plant.lifecycle.loading.pin("acme", "support", numbers[2], by=BY)
    await plant.lifecycle.promote("acme", "support", numbers[2], by=BY)
    await plant.lifecycle.promote("acme", "support", numbers[3], by=BY)
    pinned = [await plant.registry.versions.get("acme", "support", number) for number in numbers[:2]]
    assert all(version.pinned and version.engine_id in plant.loader.ids for version in pinned)
    again = build_plant(plant.registry, plant.folder)  # a restart
    assert await again.lifecycle.restore_pins() == ()
    assert again.loader.ids == {version.engine_id for version in pinned}
    await plant.lifecycle.loading.unpin("acme", "support", numbers[0], by=BY)
    assert not (await plant.registry.versions.get("acme", "support", numbers[0])).pinned


async def test_removing_waits_for_those_who_stream(plant: Plant) -> None:
    number = await plant.add()
    version = await plant.registry.versions.get("acme", "support", number)
    await plant.lifecycle.promote("acme", "support", number, by=BY)
    with pytest.raises(InUse):
        await plant.lifecycle.remove("acme", "support", number, by=BY)
    released = asyncio.Event()

    async def stream() -> None:
        async with plant.lifecycle.loading.hold(version):
            await released.wait()
            assert version.engine_id in plant.loader.ids

    streams = [asyncio.create_task(stream()) for _ in range(32)]
    await asyncio.sleep(0.02)
    (draining,) = await plant.lifecycle.remove("acme", "support", by=BY, wait_s=0.05)
    assert draining.state is S.DRAINING
    with pytest.raises(VersionRetired):
        async with plant.lifecycle.loading.hold(version):
            pass
    released.set()
    await asyncio.gather(*streams)
    await until(lambda: not plant.loader.ids)
    await until(lambda: not plant.lifecycle._drain_tasks)
    assert await states(plant) == ["retired"]
    assert not await plant.registry.versions.digests()
    path = plant.store.path(version.digest or "")
    os.utime(path, (0, 0))
    await plant.lifecycle.reconcile()
    assert not path.exists()


async def test_removing_one_version_leaves_the_others(plant: Plant) -> None:
    first, second = await plant.add(0), await plant.add(1)
    await plant.lifecycle.promote("acme", "support", second, by=BY)
    (retired,) = await plant.lifecycle.remove("acme", "support", first, by=BY)
    assert retired.state is S.RETIRED
    assert await states(plant) == ["retired", "ready"]
    for number, error in ((first, IllegalTransition), (9, UnknownVersion)):
        with pytest.raises(error):
            await plant.lifecycle.remove("acme", "support", number, by=BY)


async def test_the_same_name_with_other_weights_is_another_adapter_to_the_engine(plant: Plant) -> None:
    await plant.add(0)
    before = await plant.registry.versions.get("acme", "support", 1)
    await plant.lifecycle.remove("acme", "support", by=BY)
    after = await plant.registry.versions.get("acme", "support", await plant.add(1))
    old, new = plant.lifecycle.loading.engine_adapter(before), plant.lifecycle.loading.engine_adapter(after)
    assert old.engine_id != new.engine_id and old.engine_name != new.engine_name and old.path != new.path


async def test_a_restart_finishes_or_fails_what_was_begun(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = await plant.add(0)
    moves: list[str] = []
    move = plant.registry.versions.transition

    async def stop_before(stop: str, *args: object, **facts: object) -> object:
        moves.append(str(args[1]))
        if args[1] == stop:
            raise KeyboardInterrupt
        return await move(*args, **facts)  # type: ignore[arg-type]

    async def no_failing(*args: object, **options: object) -> None: ...

    monkeypatch.setattr("adapters.lifecycle.adding.VersionAdder._fail", no_failing)
    for stop in (S.FETCHED, S.VERIFIED, S.READY):
        monkeypatch.setattr(
            plant.registry.versions, "transition", lambda *a, stop=stop, **f: stop_before(stop, *a, **f)
        )
        with pytest.raises(KeyboardInterrupt):
            await plant.add(1)
    monkeypatch.undo()
    draining = await plant.add(2)
    version = await plant.registry.versions.get("acme", "support", draining)
    await plant.registry.versions.transition(version, S.DRAINING, by=BY)
    assert await states(plant) == ["ready", "registered", "fetched", "verified", "draining"]
    recovery = await build_plant(another(plant.registry), plant.folder).lifecycle.recover(deep=True)
    assert await states(plant) == ["ready", "failed", "failed", "ready", "retired"]
    assert [v.number for v in recovery.finished] == [4] and [v.number for v in recovery.failed] == [2, 3]
    assert recovery.garbage == (version.digest,) and recovery.damaged == ()
    assert (await plant.registry.versions.get("acme", "support", ready)).state is S.READY


async def test_a_restart_reports_damage_and_keeps_the_version(plant: Plant) -> None:
    version = await plant.lifecycle.register("acme", "support", plant.source(), by=BY)
    weights = plant.lifecycle.loading.engine_adapter(version).path / "adapter_model.safetensors"
    weights.chmod(0o644)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert (await plant.lifecycle.recover()).damaged == ()
    assert (await plant.lifecycle.recover(deep=True)).damaged == (version,)
    await plant.add(0)
    assert (await plant.lifecycle.recover(deep=True)).damaged == ()


async def test_reconciling_takes_up_drains_that_broke_off(plant: Plant) -> None:
    number = await plant.add()
    version = await plant.registry.versions.get("acme", "support", number)
    async with plant.lifecycle.loading.hold(version):
        pass
    await plant.registry.versions.transition(version, S.DRAINING, by=BY)
    plant.loader.ids.add(4242)
    drift = await plant.lifecycle.reconcile()
    assert drift.orphans == (4242,)
    await until(lambda: not plant.loader.ids)
    await until(lambda: not plant.lifecycle._drain_tasks)
    assert await states(plant) == ["retired"]


async def test_seconds_of_promotions_splits_and_rollbacks_are_observed(plant: Plant) -> None:
    first, second = await plant.add(1), await plant.add(2)
    await plant.lifecycle.promote("acme", "support", first, by=BY)
    await plant.lifecycle.split("acme", "support", [AliasTarget(first, 1), AliasTarget(second, 1)], by=BY)
    with pytest.raises(UnknownVersion):
        await plant.lifecycle.promote("acme", "support", 99, by=BY)
    await plant.lifecycle.rollback("acme", "support", by=BY)
    assert len(plant.swap_seconds) == 3 and all(0 < s < 5 for s in plant.swap_seconds)
