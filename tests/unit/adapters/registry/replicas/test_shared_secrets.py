"""All servers have the same key, also when several start on an empty registry at once."""

from __future__ import annotations

import asyncio

from adapters.registry import Registry
from tests.unit.adapters.lifecycle.support import another


async def test_the_first_server_makes_the_key_and_all_have_it(registry: Registry) -> None:
    found = await asyncio.gather(*(another(registry).secrets.get("cache_salt") for _ in range(4)))
    assert len(set(found)) == 1 and len(found[0]) == 32
    assert await another(registry).secrets.get("cache_salt") == found[0]
    assert await registry.secrets.get("another") != found[0]
