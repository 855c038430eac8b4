"""`adapters` in a request: what its names mean to the caller, on every route, and what is refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

import demo
from adapters.lifecycle.blends.request_blends import FIRST_ENGINE_ID
from adapters.models import Rating
from tests.unit.server.app.composed import Composed, compose

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {**CHAT, "max_tokens": 5},
}
TWO = [{"name": "acme-support", "scale": 1.0}, {"name": "acme-tone", "scale": 0.5}]


@pytest.fixture(scope="module")
async def composed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Composed]:
    async with compose(
        tmp_path_factory.mktemp("blends"), max_lora_rank=32, max_blends=3, blends_per_minute=1000
    ) as composed:
        for tenant, name, source in (
            ("acme", "support", "acme-support"),
            ("acme", "support", "globex-tools"),
            ("acme", "tone", "globex-tools"),
            ("globex", "tools", "globex-tools"),
        ):
            body = {
                "source": str(demo.ADAPTERS[source].path),
                "sampling_defaults": {"temperature": 0.25} if name == "support" else {},
            }
            await composed.make("POST", f"/admin/v1/adapters/{tenant}/{name}/versions", json=body)
        yield composed


async def ask(
    composed: Composed, adapters: Any, key: str = "demo-acme", path: str = "/v1/chat/completions", **more: Any
) -> Any:
    body = {**ROUTES[path], "adapters": adapters, **more}
    return await composed.ask("POST", path, key, json=body, headers={"x-loragate-debug": "1"})


@pytest.mark.parametrize("path", ROUTES)
async def test_every_route_serves_a_blend(composed: Composed, path: str) -> None:
    answer = await ask(composed, TWO, path=path, model="acme-support")
    assert answer.status_code == 200, answer.text
    context = composed.engine.asked[-1]
    assert context.held is not None and context.held.engine_id >= FIRST_ENGINE_ID
    assert "adapters" not in context.sampling.body
    debug = json.loads(answer.headers["x-loragate-debug"])
    assert debug["adapters"]["value"] == [
        {"name": "acme-support@2", "scale": 1.0},
        {"name": "acme-tone@1", "scale": 0.5},
    ]
    assert debug["temperature"] == {"value": 0.25, "from": "adapter"}
    assert context.target.model == "acme-support"
    assert context.target.version is not None and context.target.version.adapter == "support+tone"


async def test_the_same_blend_is_used_again_and_other_scales_make_another(composed: Composed) -> None:
    held = []
    for adapters in (TWO, TWO[::-1], [TWO[0], {**TWO[1], "scale": 0.75}]):
        assert (await ask(composed, adapters)).status_code == 200
        held.append(composed.engine.asked[-1].held)
    assert held[0] == held[1] != held[2]


async def test_one_adapter_with_the_scale_1_is_itself(composed: Composed) -> None:
    assert (await ask(composed, [{"name": "acme-support@1"}])).status_code == 200
    context = composed.engine.asked[-1]
    assert context.target.version is not None and context.target.version.number == 1
    assert context.held is not None and context.held.engine_id < FIRST_ENGINE_ID
    assert (await ask(composed, None, model="acme-support")).status_code == 200
    assert not composed.engine.asked[-1].target.blend


async def test_a_split_alias_gives_the_same_version_to_the_same_user(composed: Composed) -> None:
    support = "/admin/v1/adapters/acme/support"
    await composed.make("POST", f"{support}/split", json={"weights": {"1": 1, "2": 1}})
    seen: dict[str, set[int]] = {}
    for user in ("a", "b", "c", "d", "e", "f", "g", "h") * 2:
        assert (await ask(composed, TWO, user=user)).status_code == 200
        context = composed.engine.asked[-1]
        seen.setdefault(user, set()).add(context.target.blend[0].version.number)
        assert context.target.is_split
    assert all(len(numbers) == 1 for numbers in seen.values())
    assert set.union(*seen.values()) == {1, 2}
    await composed.make("POST", f"{support}/promote", json={"version": 2})


@pytest.mark.parametrize(
    ("adapters", "status", "code", "told"),
    [
        ("acme-support", 400, "invalid_request", "must be a list like"),
        ([], 400, "invalid_request", "1 to 8 adapters, not 0"),
        ([{"name": "acme-support"}] * 9, 400, "invalid_request", "not 9"),
        ([{"name": 1}], 400, "invalid_request", "must be a list like"),
        ([{"name": "acme-support", "weight": 1}], 400, "invalid_request", "must be a list like"),
        ([{"name": "acme-support", "scale": "1"}], 400, "invalid_request", "must be a list like"),
        ([{"name": "acme-support", "scale": True}], 400, "invalid_request", "must be a list like"),
        ([{"name": "acme-support", "scale": 0}], 400, "invalid_request", "scale of 0"),
        ([{"name": "acme-support", "scale": 10**400}], 400, "invalid_request", "between -4 and 4"),
        ([TWO[0], TWO[0]], 400, "invalid_request", "named twice"),
        ([{"name": demo.SERVED_NAME}], 400, "invalid_request", "not the base model"),
        ([TWO[0], {"name": "globex-tools"}], 404, "model_not_found", "globex-tools"),
        ([TWO[0], {"name": "acme-none"}], 404, "model_not_found", "acme-none"),
        ([TWO[0], {"name": "acme-tone@7"}], 404, "model_not_found", "acme-tone@7"),
    ],
)
async def test_what_is_refused(composed: Composed, adapters: Any, status: int, code: str, told: str) -> None:
    answer = await ask(composed, adapters)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), answer.text
    assert told in error["message"]
    assert error["param"] in ("adapters", "model", None)


async def test_the_model_must_be_one_of_them_or_the_base(composed: Composed) -> None:
    assert (await ask(composed, TWO, model=demo.SERVED_NAME)).status_code == 200
    refused = await ask(composed, TWO, model="acme-other")
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "model"


async def test_a_key_must_be_allowed_to_call_each(composed: Composed) -> None:
    issued = await composed.make(
        "POST", "/admin/v1/keys", json={"tenant": "acme", "role": "inference", "models": ["acme-support"]}
    )
    refused = await ask(composed, TWO, issued["secret"])
    assert refused.status_code == 404 and "acme-tone" in refused.json()["error"]["message"]
    own = [{"name": "acme-support", "scale": 0.5}]
    assert (await ask(composed, own, issued["secret"], model=demo.SERVED_NAME)).status_code == 200


async def test_an_operator_blends_adapters_of_one_tenant(composed: Composed) -> None:
    assert (await ask(composed, TWO, "demo-admin")).status_code == 200
    refused = await ask(composed, [TWO[0], {"name": "globex-tools"}], "demo-admin")
    assert refused.status_code == 400 and "of one tenant only" in refused.json()["error"]["message"]


async def test_a_canary_is_not_judged_by_blends(composed: Composed) -> None:
    assert (await ask(composed, TWO)).status_code == 200
    context = composed.engine.asked[-1]
    composed.server.canaries.note(context, 500)
    composed.server.canaries.rated("acme", context.target.version, Rating.DOWN)
    assert not composed.server.canaries._new["acme", "support+tone"]


async def test_a_rank_above_the_limit_is_told(composed: Composed) -> None:
    names = ["acme-support@1", "acme-support@2", "acme-tone"]
    answer = await ask(composed, [{"name": name, "scale": 0.5} for name in names])
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "artifact_refused"
    assert "add up to 48, above --max-lora-rank 32" in answer.json()["error"]["message"]


async def test_too_many_new_blends_are_refused_with_a_time(
    composed: Composed, monkeypatch: pytest.MonkeyPatch
) -> None:
    blends = composed.server.engine.adapters.request_blends
    monkeypatch.setattr(blends, "_limits", type(blends._limits)(3, 1, 1 << 30, 30.0))
    answers = [await ask(composed, [{"name": "acme-tone", "scale": 0.01 * n}]) for n in (1, 2)]
    refused = answers[-1]
    assert refused.status_code == 429 and refused.json()["error"]["code"] == "blend_limit_exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 120
