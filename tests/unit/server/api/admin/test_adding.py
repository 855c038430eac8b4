"""Adding a version: it waits for an engine that starts, and is told what the engine would leave out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import demo
from server.cli.adapters import admin_client
from server.cli.adapters.admin_client import AdminClient
from server.engine.supervisor import State
from tests.unit.server.app.composed import Composed, compose

SOURCE = str(demo.ADAPTERS["acme-support"].path)
ADAPTER = "/admin/v1/adapters/acme/support"
WAIT_S = 0.5


@pytest.fixture(scope="module")
async def composed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Composed]:
    async with compose(tmp_path_factory.mktemp("adding"), adapter_wait_s=WAIT_S) as composed:
        yield composed


ADD: dict[str, tuple[str, dict[str, str]]] = {
    "ours": (f"{ADAPTER}/versions", {"source": SOURCE}),
    "vLLM's": ("/v1/load_lora_adapter", {"lora_name": "acme-other", "lora_path": SOURCE}),
}


async def version_counts(composed: Composed) -> dict[str, int]:
    listed = await composed.make("GET", "/admin/v1/adapters")
    return {adapter["name"]: len(adapter["versions"]) for adapter in listed["data"]}


@pytest.mark.parametrize("way", ADD)
@pytest.mark.parametrize("state", [State.STARTING, State.RESTARTING])
async def test_it_waits_for_an_engine_that_starts(composed: Composed, way: str, state: State) -> None:
    path, body = ADD[way]
    composed.server.engine.supervisor.state = state
    adding = asyncio.create_task(
        composed.ask("POST", path, json={**body, **({"load_inplace": True} if "v1/l" in path else {})})
    )
    await asyncio.sleep(WAIT_S / 2)
    assert not adding.done()
    composed.server.engine.supervisor.state = State.READY
    assert (await adding).is_success


@pytest.mark.parametrize("way", ADD)
async def test_it_does_not_wait_for_ever_and_leaves_nothing_behind(composed: Composed, way: str) -> None:
    path, body = ADD[way]
    before = await version_counts(composed)
    composed.server.engine.supervisor.state = State.STARTING
    try:
        refused = await composed.ask(
            "POST", path, json={**body, "load_inplace": True} if "v1/l" in path else body
        )
    finally:
        composed.server.engine.supervisor.state = State.READY
    assert refused.status_code == 503 and "The engine is starting" in refused.json()["error"]["message"]
    assert 1 <= int(refused.headers["retry-after"]) <= 120
    assert await version_counts(composed) == before


async def test_an_adapter_that_the_engine_would_serve_in_part_is_refused(composed: Composed) -> None:
    base = composed.server.base.rules.base
    layers = frozenset(name for name in base.modules() if "mlp" not in name)
    composed.server.engine._lora_layers = layers
    try:
        refused = await composed.ask("POST", f"{ADAPTER}/versions", json={"source": SOURCE})
        assert refused.status_code == 400 and refused.json()["error"]["code"] == "artifact_refused"
        told = refused.json()["error"]["message"]
        assert "applies LoRA to 16 of the adapter's 28 layers" in told
        assert (
            "leave out gate_proj, up_proj, down_proj" in told
            and "among q_proj, k_proj, v_proj, o_proj" in told
        )
        composed.server.engine._lora_layers = frozenset(base.modules())
        assert (await composed.ask("POST", f"{ADAPTER}/versions", json={"source": SOURCE})).status_code == 201
    finally:
        composed.server.engine._lora_layers = None


@pytest.mark.parametrize(
    ("states", "asked"), [(["ready"], 1), (["starting", "restarting", "ready"], 3), (["starting"] * 9, 3)]
)
def test_the_command_waits_longer_than_the_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], states: list[str], asked: int
) -> None:
    seen: list[str] = []
    clock = iter(range(100))

    def call(self: AdminClient, method: str, path: str, **request: Any) -> Any:
        seen.append(f"{method} {path}")
        return {"state": states[len(seen) - 1]}

    monkeypatch.setattr(AdminClient, "call", call)
    monkeypatch.setattr(admin_client.time, "sleep", lambda _: None)
    monkeypatch.setattr(admin_client.time, "monotonic", lambda: float(next(clock)))
    AdminClient("http://127.0.0.1:9", "k").wait_for_engine(timeout_s=2)
    assert seen == ["GET /live"] * asked
    assert capsys.readouterr().err.count("The engine is starting; waiting for it") == (asked > 1)
