"""A thousand adapters cost no more queries than ten; a start that finds them takes less than a second more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.models import Key, Role
from adapters.registry import Registry
from adapters.registry.outages import availability
from adapters.store.store import Store
from benchmarks.startup import seed_registry
from benchmarks.startup.seed_registry import copy_version
from server.request.context import Caller
from server.request.routing import Router
from tests.unit.adapters.lifecycle.support import Plant, build_plant

MANY = 1000
NOW = datetime.now(UTC)


@pytest.fixture
def plant(registry: Registry, tmp_path: Path) -> Plant:
    return build_plant(registry, tmp_path)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, str]]:
    """A plant's folder, whose store keeps a thousand artifacts for both databases; number of a copy -> digest."""
    return tmp_path_factory.mktemp("thousand"), {}


@contextmanager
def queries(registry: Registry) -> Iterator[list[str]]:
    """The statements that were sent inside the block, without those that begin and end transactions."""
    sent: list[str] = []
    engine = engine_of(registry).sync_engine

    def note(*event: object) -> None:
        if not str(event[2]).startswith(("BEGIN", "PRAGMA")):
            sent.append(str(event[2]))

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


async def register_many(plant: Plant) -> None:
    """A thousand adapters beside one that was added."""
    model = await plant.registry.versions.get("acme", "support", await plant.add())
    await copy_version(engine_of(plant.registry), plant.store, model, MANY)


def engine_of(registry: Registry) -> AsyncEngine:
    return registry._database.engine


async def test_listing_and_routing_cost_the_same_queries(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No artifact is read here, and a thousand of them take seconds to write.
    monkeypatch.setattr(seed_registry, "_copy_artifact", lambda store, digest, number: f"{number:064x}")
    monkeypatch.setattr(availability, "MAX_STALENESS_S", 60.0)  # also where the machine is busy
    await register_many(plant)
    registry = plant.registry
    with queries(registry) as sent:
        assert len(await registry.adapters.list("acme")) == MANY + 1
    assert len(sent) == 1, sent
    router = Router(registry, base_model_name="base")
    key = Key("k", "acme", Role.INFERENCE, "lg-", "0", None, None, None, NOW)
    caller = Caller(key, await registry.tenants.get("acme"))
    with queries(registry) as sent:
        assert len(await router.visible(caller)) == MANY
    assert len(sent) == 2, "the registry's revision, and the adapters"
    with queries(registry) as sent:
        assert len(await router.visible(caller)) == MANY
    assert sent == [], "a list that did not change costs nothing"
    with queries(registry) as sent:
        target = await router.resolve(caller, "acme-a777")
    assert target.version is not None and target.version.engine_id == 10_777
    assert len(sent) <= 2, "the registry's revision, and the adapter by its name"
    with queries(registry) as sent:
        await router.resolve(caller, "acme-a777")
    assert sent == [], "a known name costs nothing"


@pytest.mark.slow
async def test_a_start_that_finds_them_takes_less_than_a_second_more(
    plant: Plant, artifacts: tuple[Path, dict[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with queries(plant.registry) as few:
        await plant.lifecycle.recover()
    folder, digests = artifacts
    copy = seed_registry._copy_artifact

    def copy_once(store: Store, digest: str, number: int) -> str:
        if number not in digests:
            digests[number] = copy(store, digest, number)
        return digests[number]

    monkeypatch.setattr(seed_registry, "_copy_artifact", copy_once)
    full = build_plant(plant.registry, folder)
    await register_many(full)
    began_s = time.process_time()  # processor time: others may use the machine
    with queries(plant.registry) as many:
        found = await full.lifecycle.recover()
    took_s = time.process_time() - began_s
    assert len(many) == len(few), "no query per adapter"
    assert found.damaged == () and found.garbage == ()
    assert len(list((folder / "store/sha256").iterdir())) == MANY + 1
    assert took_s < 1.0
