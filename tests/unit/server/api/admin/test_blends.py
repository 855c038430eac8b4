"""Blends over the admin API: the version with its recipe, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

import demo
from tests.unit.server.app.composed import Composed, compose

ADAPTERS = "/admin/v1/adapters"


@pytest.fixture(scope="module")
async def composed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Composed]:
    async with compose(tmp_path_factory.mktemp("blends"), max_lora_rank=32) as composed:
        for tenant, name, source in (
            ("acme", "support", "acme-support"),
            ("acme", "tone", "globex-tools"),
            ("globex", "tools", "globex-tools"),
        ):
            body = {"source": str(demo.ADAPTERS[source].path)}
            await composed.make("POST", f"{ADAPTERS}/{tenant}/{name}/versions", json=body)
        yield composed


def of(*parts: tuple[str, int | None, float]) -> dict[str, Any]:
    return {"of": [{"adapter": name, "version": version, "scale": scale} for name, version, scale in parts]}


async def test_a_blend_serves_and_shows_its_recipe(composed: Composed) -> None:
    made = await composed.make(
        "POST", f"{ADAPTERS}/acme/concierge/blend", json=of(("support", 1, 1.0), ("tone", None, 0.5))
    )
    shown = await composed.make("GET", f"{ADAPTERS}/acme/concierge")
    assert shown["alias"]["targets"] == [{"version": 1, "weight": 1.0}]
    recipe = shown["versions"][0]["recipe"]
    assert recipe == made["recipe"] and recipe["relative_error"] == 0.0
    assert [(part["adapter"], part["version"], part["scale"]) for part in recipe["of"]] == [
        ("support", 1, 1.0),
        ("tone", 1, 0.5),
    ]
    assert made["rank"] == recipe["rank"]
    listed = await composed.make("GET", "/admin/v1/audit?subject=acme-concierge")
    assert any("recipe" in entry["details"] for entry in listed["data"])
    ordinary = await composed.make("GET", f"{ADAPTERS}/acme/support")
    assert ordinary["versions"][0]["recipe"] is None


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        ("acme/x/blend", of(("tools", 1, 1.0)), 404, "no version 1"),
        ("acme/x/blend", of(("globex-tools", 1, 1.0)), 404, "no version 1"),
        ("acme/x/blend", of(("support", 1, 9.0)), 400, "between -4 and 4"),
        ("acme/x/blend", {"of": []}, 400, "1 to 8 adapters, not 0"),
        ("acme/x/blend", of(("support", 1, 1.0)) | {"reduce_rank": 99}, 400, "--max-lora-rank 32"),
        ("acme/x/blend", of(("support", 1, 1.0)) | {"other": 1}, 400, "other"),
        ("nobody/x/blend", of(("support", 1, 1.0)), 404, ""),
    ],
)
async def test_what_is_refused(
    composed: Composed, path: str, body: dict[str, Any], status: int, told: str
) -> None:
    answer = await composed.ask("POST", f"{ADAPTERS}/{path}", json=body)
    assert answer.status_code == status, answer.text
    assert told in answer.json()["error"]["message"]


async def test_a_tenants_admin_blends_its_own_only(composed: Composed) -> None:
    issued = await composed.make(
        "POST", "/admin/v1/keys", json={"tenant": "acme", "role": "tenant_admin", "note": "test"}
    )
    key = issued["secret"]
    body = of(("support", 1, 1.0)) | {"promote": False}
    assert (await composed.ask("POST", f"{ADAPTERS}/acme/own/blend", key, json=body)).status_code == 201
    other = await composed.ask("POST", f"{ADAPTERS}/globex/own/blend", key, json=of(("tools", 1, 1.0)))
    assert other.status_code == 404 and "tenant" in other.json()["error"]["code"]
    assert (
        await composed.ask("POST", f"{ADAPTERS}/acme/own/blend", "demo-acme", json=body)
    ).status_code == 403
