"""Texts of shadow traffic: only with the tenant's consent, of differing answers, bounded, and for nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from adapters.models import Actor
from adapters.registry.database import utc_now
from adapters.registry.figures import shadow_texts as store_module
from adapters.registry.figures.shadow_texts import ShadowPair
from adapters.registry.schema.evaluation_tables import shadow_pairs
from adapters.training.evaluation.held_out import tokenizer_of
from server.background.shadows import texts as module
from tests.unit.server.app.composed import Composed
from tests.unit.server.background.shadows.test_traffic import (
    ADAPTER,
    FakeVllm,
    ask,
    composed,
    idle,
    shadow,
    vllm,
)

__all__ = ["composed", "vllm"]
pytestmark = pytest.mark.slow  # a server for each test

TEXTS = f"{ADAPTER}/shadow/texts"


class InlineWorkers:
    """Runs the tasks of worker processes here."""

    async def run(self, tenant: str, limits: Any, task: Callable[..., Any], *arguments: Any) -> Any:
        assert tenant == "acme/background"
        return task(*arguments)


@pytest.fixture
async def admin(composed: Composed) -> AsyncIterator[str]:
    engine: Any = composed.server.engine.supervisor.engine
    engine.prompts = InlineWorkers()
    body = {"tenant": "acme", "role": "tenant_admin"}
    yield (await composed.make("POST", "/admin/v1/keys", json=body))["secret"]


async def kept(composed: Composed) -> list[dict[str, Any]]:
    await idle(composed)
    found: list[dict[str, Any]] = (await composed.make("GET", TEXTS))["data"]
    return found


async def test_nothing_is_kept_before_the_tenant_consents(composed: Composed, admin: str) -> None:
    await shadow(composed)
    await ask(composed)
    assert await kept(composed) == []
    refused = await composed.ask("PUT", TEXTS)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    consented = (await composed.ask("PUT", TEXTS, admin)).json()
    assert consented["kept"] and consented["by"] == "acme"
    await ask(composed)
    (pair,) = await kept(composed)
    base = composed.server.base.rules.base_folder
    assert base is not None
    texts = module.readable_texts(base, (), [1, 2, 3], [5, 6, 7], [5, 6])
    assert (pair["prompt"], pair["served"], pair["shadow"]) == texts
    assert (pair["version"], pair["against"]) == (2, 1)
    listed = (await composed.ask("GET", TEXTS, admin)).json()
    assert listed["data"] == [pair]


async def test_withdrawn_all_of_it_goes_at_once_and_the_audit_has_both(
    composed: Composed, admin: str
) -> None:
    await shadow(composed)
    await composed.ask("PUT", TEXTS, admin)
    await ask(composed)
    assert await kept(composed)
    removed = (await composed.ask("DELETE", TEXTS, admin)).json()
    assert removed == {"kept": False, "by": None, "at": None, "data": []}
    await ask(composed)
    assert await kept(composed) == []
    registry = composed.server.registry
    pair = ShadowPair(2, 1, utc_now(), "p", "a", "b")
    assert not await registry.shadow_texts.keep("acme", "support", pair), "the database refuses it, too"
    audit = [each for each in await registry.audit.list() if each.action == "adapter.shadow_texts"]
    assert [each.details for each in audit] == [{"kept": False}, {"kept": True}]


async def test_equal_answers_are_not_kept(composed: Composed, admin: str, vllm: FakeVllm) -> None:
    await shadow(composed)
    await composed.ask("PUT", TEXTS, admin)
    vllm.same = True
    await ask(composed)
    assert await kept(composed) == []


async def test_another_tenant_finds_nothing(composed: Composed, admin: str) -> None:
    body = {"tenant": "globex", "role": "tenant_admin"}
    other = (await composed.make("POST", "/admin/v1/keys", json=body))["secret"]
    for method in ("GET", "PUT", "DELETE"):
        assert (await composed.ask(method, TEXTS, other)).status_code == 404
    made = (await composed.make("POST", "/admin/v1/keys", json={"tenant": "acme"}))["secret"]
    assert (await composed.ask("GET", TEXTS, made)).status_code == 403


async def test_so_many_for_so_long_and_so_large(
    composed: Composed, admin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "KEPT_PER_ADAPTER", 3)
    store = composed.server.registry.shadow_texts
    await composed.ask("PUT", TEXTS, admin)
    now = utc_now()
    for age in (8, 3, 2, 1, 0):
        await store.keep("acme", "support", ShadowPair(2, 1, now - timedelta(days=age), f"{age}", "a", "b"))
    assert [each["prompt"] for each in await kept(composed)] == ["0", "1", "2"]
    await store.keep("acme", "support", ShadowPair(2, 1, now - timedelta(days=6), "6", "a", "b"))
    monkeypatch.setattr(store_module, "KEPT_FOR", timedelta(hours=36))
    assert len(await kept(composed)) == 2
    await store.forget()
    monkeypatch.setattr(store_module, "KEPT_FOR", timedelta(days=70))
    assert len(await kept(composed)) == 2
    base = composed.server.base.rules.base_folder
    assert base is not None
    long = [*range(3, 3003)] * 2
    texts = module.readable_texts(base, (), long, long, long)
    assert all(0 < len(text) <= module.MOST_CHARACTERS for text in texts)


async def test_texts_go_with_their_adapter(composed: Composed, admin: str, tmp_path: Path) -> None:
    await composed.ask("PUT", TEXTS, admin)
    store = composed.server.registry.shadow_texts
    assert await store.keep("acme", "support", ShadowPair(2, 1, utc_now(), "p", "a", "b"))
    await composed.make("DELETE", ADAPTER)
    assert await composed.make("GET", TEXTS) == {"kept": False, "by": None, "at": None, "data": []}
    assert (await composed.ask("PUT", TEXTS, admin)).status_code == 404, "it is removed"
    query = sa.select(sa.func.count()).select_from(shadow_pairs)
    async with store._database.read() as connection:
        assert (await connection.execute(query)).scalar() == 0


async def test_they_are_redacted_as_the_tenants_records(composed: Composed, admin: str) -> None:
    base = composed.server.base.rules.base_folder
    assert base is not None
    ids = tokenizer_of(base)("Write to anna@example.com about order A-17.").input_ids
    texts = module.readable_texts(base, ("order A-[0-9]+",), ids, ids, ids)
    assert all("anna" not in text and "A-17" not in text and "Write to" in text for text in texts)
    changes = {"records": {"patterns": ["."]}}
    await composed.server.registry.tenants.set("acme", changes, by=Actor("test"))
    await composed.ask("PUT", TEXTS, admin)
    await shadow(composed)
    await ask(composed)
    (pair,) = await kept(composed)
    assert pair["prompt"].replace("[redacted]", "").strip() == ""
