"""What a demo starts with, in an empty data folder and in one of an earlier release."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import demo
from adapters.artifact import BaseShape
from adapters.lifecycle import Lifecycle, Rules
from adapters.models import AliasTarget
from adapters.registry import Registry, connect
from adapters.residency import Residency
from adapters.store.store import Store
from server.app.demo_seed import add_adapters, add_tenants
from tests.unit.adapters.lifecycle.support import BY
from tests.unit.adapters.residency.support import CheckingLoader

ACME = demo.ADAPTERS["acme-support"]
ME = (ACME.tenant, ACME.name)


@pytest.fixture
async def registry(sqlite_url: str) -> AsyncIterator[Registry]:
    engine = connect(sqlite_url)
    registry = Registry(engine, reserved_names={demo.SERVED_NAME})
    await add_tenants(registry)
    yield registry
    await engine.dispose()


@pytest.fixture
async def lifecycle(registry: Registry, tmp_path: Path) -> Lifecycle:
    loader = CheckingLoader(4, load_s=0.0, unload_s=0.0)
    residency = Residency(lambda: loader, 4)
    loader.residency = residency
    base = BaseShape.from_config(demo.MODEL_DIR / "config.json")
    return Lifecycle(registry, Store(tmp_path / "store"), residency, Rules(base, 16, 1 << 26))


@pytest.fixture
def next_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded adapter of acme, trained anew."""
    folder = tmp_path / "trained-anew"
    shutil.copytree(ACME.path, folder)
    report = json.loads((folder / "training.json").read_text())
    (folder / "training.json").write_text(json.dumps(report | {"train_s": 1.0}))
    newer = demo.DemoAdapter(ACME.tenant, ACME.name, folder, ACME.data, ACME.held_out)
    monkeypatch.setitem(demo.ADAPTERS, ACME.public_name, newer)


async def served(registry: Registry) -> list[int]:
    return [target.number for target in (await registry.aliases.get(*ME)).targets]


async def test_adapters_are_added_once(registry: Registry, lifecycle: Lifecycle) -> None:
    for _ in range(3):
        await add_adapters(registry, lifecycle)
        for adapter in demo.ADAPTERS.values():
            alias = await registry.aliases.get(adapter.tenant, adapter.name)
            assert (alias.generation, alias.targets) == (1, (AliasTarget(1),))


@pytest.mark.usefixtures("next_release")
async def test_a_new_releases_adapter_takes_the_traffic(registry: Registry, lifecycle: Lifecycle) -> None:
    older = demo.DemoAdapter(ACME.tenant, ACME.name, ACME.path, ACME.data, ACME.held_out)
    newer = demo.ADAPTERS[ACME.public_name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(demo.ADAPTERS, ACME.public_name, older)
        await add_adapters(registry, lifecycle)
    for _ in range(2):
        await add_adapters(registry, lifecycle)
        assert await served(registry) == [2]
    assert (await registry.versions.get(*ME, 2)).source.endswith(newer.path.name)


async def test_what_somebody_decided_stays(
    registry: Registry, lifecycle: Lifecycle, request: pytest.FixtureRequest
) -> None:
    await add_adapters(registry, lifecycle)
    await lifecycle.promote(*ME, 1, by=BY)
    request.getfixturevalue("next_release")
    await add_adapters(registry, lifecycle)
    assert await served(registry) == [1]


async def test_what_somebody_removed_does_not_come_back(registry: Registry, lifecycle: Lifecycle) -> None:
    await add_adapters(registry, lifecycle)
    await lifecycle.remove(*ME, by=BY)
    await add_adapters(registry, lifecycle)
    assert await served(registry) == []
