"""Blends as versions: made of the tenant's own ready versions, immutable, with their recipe."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapters.errors import (
    ArtifactRefused,
    BadValue,
    IllegalTransition,
    UnknownAdapter,
    UnknownVersion,
)
from adapters.lifecycle.blends.blending import BlendPart
from adapters.models import VersionState
from adapters.registry import Registry
from tests.unit.adapters.lifecycle.support import BY, Plant, build_plant


@pytest.fixture
async def plant(registry: Registry, tmp_path: Path) -> AsyncIterator[Plant]:
    plant = build_plant(registry, tmp_path)
    await plant.add(1, "support")
    await plant.add(2, "tone")
    yield plant
    await plant.lifecycle.aclose()
    await plant.residency.aclose()


async def test_a_blend_is_a_version_with_its_recipe(plant: Plant) -> None:
    await plant.lifecycle.promote("acme", "tone", 1, by=BY)
    parts = [BlendPart("support", 1, 1.0), BlendPart("tone", None, 0.5)]
    version = await plant.lifecycle.blending.blend("acme", "concierge", parts, by=BY)
    assert (version.state, version.rank, version.number) == (VersionState.READY, 8, 1)
    assert version.source == "blend support@1:1, tone@1:0.5"
    digests = [(await plant.registry.versions.get("acme", name, 1)).digest for name in ("support", "tone")]
    assert version.recipe == {
        "of": [
            {"adapter": "support", "version": 1, "digest": digests[0], "scale": 1.0},
            {"adapter": "tone", "version": 1, "digest": digests[1], "scale": 0.5},
        ],
        "reduce_rank": None,
        "rank": 8,
        "relative_error": 0.0,
    }
    await plant.lifecycle.promote("acme", "concierge", 1, by=BY)
    entries = await plant.registry.audit.list(subject="acme-concierge")
    made = next(entry for entry in entries if entry.action == "version.register")
    assert [part["adapter"] for part in made.details["recipe"]["of"]] == ["support", "tone"]
    # It does not depend on its parts any more.
    await plant.lifecycle.remove("acme", "support", by=BY)
    assert plant.store.require(str(version.digest))


async def test_a_reduced_blend_says_its_error(plant: Plant) -> None:
    parts = [BlendPart("support", 1), BlendPart("tone", 1)]
    version = await plant.lifecycle.blending.blend("acme", "small", parts, by=BY, reduce_rank=4)
    assert version.rank == 4 and version.recipe is not None
    assert version.recipe["reduce_rank"] == 4 and 0 < version.recipe["relative_error"] < 1
    assert version.source.endswith(", reduced to rank 4")


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ([], BadValue, "1 to 8 adapters, not 0"),
        ([BlendPart("support", 1, 0.0)], BadValue, "scale of 0 is not possible"),
        ([BlendPart("support", 1, float("nan"))], BadValue, "scale of nan"),
        ([BlendPart("support", 1, 4.5)], BadValue, "between -4 and 4"),
        ([BlendPart("support", 1), BlendPart("support", 1)], BadValue, "named twice"),
        ([BlendPart("support", None)], BadValue, "serves no version; name one, as in support@1"),
        ([BlendPart("support", 9)], UnknownVersion, "no version 9"),
        ([BlendPart("nothing", 1)], UnknownVersion, "no version 1"),
        ([BlendPart("nothing", None)], UnknownAdapter, "acme-nothing"),
    ],
)
async def test_what_cannot_be_blended_is_told(
    plant: Plant, parts: list[BlendPart], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await plant.lifecycle.blending.blend("acme", "concierge", parts, by=BY)
    with pytest.raises(UnknownAdapter):
        await plant.registry.adapters.get("acme", "concierge")


async def test_another_tenants_adapter_does_not_exist(plant: Plant) -> None:
    await plant.lifecycle.register("globex", "tools", plant.source(3), by=BY)
    with pytest.raises(UnknownVersion):
        await plant.lifecycle.blending.blend("acme", "concierge", [BlendPart("tools", 1)], by=BY)


async def test_ranks_above_the_limit_fail_the_version_and_name_the_reduction(plant: Plant) -> None:
    for seed in (3, 4, 5):
        await plant.add(seed, "support")
    parts = [BlendPart("support", number) for number in (1, 2, 3, 4)] + [BlendPart("tone", 1)]
    with pytest.raises(ArtifactRefused, match=r"add up to 20, above --max-lora-rank 16; .*--reduce-rank 16"):
        await plant.lifecycle.blending.blend("acme", "concierge", parts, by=BY)
    failed = await plant.registry.versions.get("acme", "concierge", 1)
    assert failed.state is VersionState.FAILED and "20" in str(failed.error)
    version = await plant.lifecycle.blending.blend("acme", "concierge", parts, by=BY, reduce_rank=16)
    assert version.rank == 16


async def test_a_version_that_was_removed_cannot_be_blended(plant: Plant) -> None:
    await plant.lifecycle.remove("acme", "tone", by=BY)
    with pytest.raises(IllegalTransition, match="only a ready version"):
        await plant.lifecycle.blending.blend("acme", "concierge", [BlendPart("tone", 1)], by=BY)


@pytest.mark.parametrize("rank", [0, 17])
async def test_a_reduction_must_be_within_the_engines_rank(plant: Plant, rank: int) -> None:
    with pytest.raises(BadValue, match=f"{rank} is not between 1 and --max-lora-rank 16"):
        await plant.lifecycle.blending.blend(
            "acme", "concierge", [BlendPart("tone", 1)], by=BY, reduce_rank=rank
        )
