"""A tenant has the same prefix-cache salt on every server of a registry, and another one on another registry."""

from __future__ import annotations

from pathlib import Path

from tests.unit.server.app.composed import compose

BODY = {"model": "loragate-demo", "messages": [{"role": "user", "content": "Hello!"}]}


async def salts(folder: Path) -> dict[str, str]:
    async with compose(folder) as composed:
        for key in ("demo-acme", "demo-globex"):
            await composed.ask("POST", "/v1/chat/completions", key, json=BODY)
        return {context.caller.tenant_name: context.cache_salt for context in composed.engine.asked}


async def test_a_salt_belongs_to_tenant_and_registry(tmp_path: Path) -> None:
    first, again, other = (
        await salts(tmp_path / "a"),
        await salts(tmp_path / "a"),
        await salts(tmp_path / "b"),
    )
    assert first == again and first.keys() == {"acme", "globex"}
    assert len({*first.values(), *other.values()}) == 4
