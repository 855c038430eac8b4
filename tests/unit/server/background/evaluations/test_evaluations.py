"""Evaluations over the admin API, with a stand-in for vLLM behind the real gate, registry and scheduler's stamps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import demo
from adapters.training.evaluation import held_out
from adapters.training.evaluation.held_out import Rendering
from adapters.training.evaluation.metrics import AnswerFacts
from server.background.evaluations import data_files, evaluator
from server.background.evaluations.figures import figures_of
from server.fairness.shares import STAMP_KEY
from tests.unit.server.app.composed import Composed, compose
from tests.unit.server.background.evaluations.stand_in import (
    ADAPTER,
    CHATS,
    OCTETS,
    RENDERING,
    FakeVllm,
    attach,
    begin,
    ended,
)

pytestmark = pytest.mark.slow  # a server for most tests


@pytest.fixture
def vllm() -> FakeVllm:
    return FakeVllm.with_answers()


@pytest.fixture
async def composed(tmp_path: Path, vllm: FakeVllm) -> AsyncIterator[Composed]:
    async with compose(tmp_path) as composed:
        attach(composed, vllm)
        body = {"source": str(demo.ADAPTERS["acme-support"].path)}
        for promote in (True, False):
            await composed.make("POST", f"{ADAPTER}/versions", json={**body, "promote": promote})
        yield composed


async def test_figures_are_those_of_the_trainer_and_are_kept_with_the_version(
    composed: Composed, vllm: FakeVllm
) -> None:
    good, bad = [await ended(composed, await begin(composed, number)) for number in (1, 2)]
    assert good["state"] == bad["state"] == "finished", (good["error"], bad["error"])
    assert (good["figures"]["exact"], bad["figures"]["exact"]) == (1.0, 0.0)
    assert good["figures"]["loss"] == 0.5
    assert good["figures"]["turns"] == good["turns"] == good["done"] == 20
    shown = await composed.make("GET", ADAPTER)
    assert [each["version"] for each in shown["evaluations"]] == [2, 1]
    listed = await composed.make("GET", f"{ADAPTER}/evaluations?version=1")
    assert listed["data"] == [good]


async def test_it_runs_as_background_under_the_askers_name(composed: Composed, vllm: FakeVllm) -> None:
    await ended(composed, await begin(composed, 1, turns=3))
    stamps = [params.extra_args[STAMP_KEY] for _, params, _ in vllm.asked]
    assert len(stamps) == 6, "an answer and a loss for each turn"
    assert all(stamp["background"] and stamp["tenant"] == "" for stamp in stamps)
    assert len({prompt["cache_salt"] for prompt, *_ in vllm.asked}) == 1
    await composed.server.ledger.flush()
    rows: list[Any] = []
    while not rows:  # the writer has a thread of its own
        await asyncio.sleep(0.005)
        rows = [row for row in (await composed.make("GET", "/admin/v1/usage"))["data"] if row["adapter"]]
    assert [(row["tenant"], row["version"], row["requests"]) for row in rows] == [("", 1, 6)]


async def test_it_costs_its_asker_what_requests_cost_and_a_used_up_budget_ends_it(
    composed: Composed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is spent is the same here as in the usage, from which a restarted server takes it."""
    price = {"prompt": 1, "generated": 2, "valid_from": "2026-01-01T00:00:00Z", "backdate": True}
    await composed.make("POST", "/admin/v1/prices", json=price)
    await composed.make("PATCH", "/admin/v1/tenants/acme", json={"money_budget": "0.002", "rpm": 1})
    path = f"{ADAPTER}/versions/1/evaluations"
    body = {"tenant": "acme", "role": "tenant_admin"}
    key = (await composed.make("POST", "/admin/v1/keys", json=body))["secret"]
    begun = await composed.ask("POST", path, key, content=CHATS, params={"turns": 3}, headers=OCTETS)
    assert (await ended(composed, begun.json()))["state"] == "finished"
    await composed.server.ledger.flush()
    rows: list[Any] = []
    while not rows:  # the writer has a thread of its own
        await asyncio.sleep(0.005)
        rows = (await composed.make("GET", "/admin/v1/usage?tenant=acme"))["data"]
    spent = composed.server.engine.admission.accounts["acme"].period_used_nanos
    assert [Decimal(row["cost"]) for row in rows] == [Decimal(spent).scaleb(-9)] and spent > 1000
    (budget,) = (await composed.make("GET", "/admin/v1/budgets?tenant=acme"))["data"]
    assert (budget["budget"], budget["used"]) == ("money_budget", rows[0]["cost"])
    assert (await composed.make("GET", "/admin/v1/usage/keys?tenant=acme"))["data"] == []
    monkeypatch.setattr(evaluator, "_BUDGET_WAIT_S", 0.0)
    await composed.make("PATCH", "/admin/v1/tenants/acme", json={"money_budget": "0.001"})
    begun = await composed.ask("POST", path, key, content=CHATS, params={"turns": 20}, headers=OCTETS)
    failed = await ended(composed, begun.json())
    assert failed["state"] == "failed" and "money_budget" in failed["error"]
    assert composed.server.engine.admission.accounts["acme"].period_used_nanos <= 1_000_000


async def test_the_same_chats_again_are_the_same_evaluation(composed: Composed, vllm: FakeVllm) -> None:
    first = await ended(composed, await begin(composed, 1))
    asked = len(vllm.asked)
    assert await begin(composed, 1) == first
    assert len(vllm.asked) == asked
    other = await begin(composed, 1, turns=5)
    assert other["id"] != first["id"]
    await ended(composed, other)


async def test_cancelled_it_goes_on_where_it_was_left(composed: Composed, vllm: FakeVllm) -> None:
    begun = await begin(composed, 1)
    while begun["done"] < data_files._SLICE_LINES:
        vllm.pause.clear() if len(vllm.asked) > 2 * data_files._SLICE_LINES else None
        await asyncio.sleep(0.001)
        begun = await composed.make("GET", f"{ADAPTER}/evaluations/{begun['id']}")
    cancelled = await composed.make("DELETE", f"{ADAPTER}/evaluations/{begun['id']}")
    assert cancelled["state"] in ("cancelled", "finished")
    vllm.pause.set()
    asked = len(vllm.asked)
    again = await ended(composed, await begin(composed, 1))
    assert (again["state"], again["figures"]["exact"]) == ("finished", 1.0)
    assert len(vllm.asked) - asked <= 2 * (20 - data_files._SLICE_LINES), "only the turns that were left"


async def test_a_restarted_server_goes_on_by_itself(tmp_path: Path, vllm: FakeVllm) -> None:
    vllm.pause.clear()
    async with compose(tmp_path) as composed:
        attach(composed, vllm)
        body = {"source": str(demo.ADAPTERS["acme-support"].path)}
        await composed.make("POST", f"{ADAPTER}/versions", json=body)
        begun = await begin(composed, 1)
        while not vllm.asked:
            await asyncio.sleep(0.001)
    vllm.pause.set()
    async with compose(tmp_path) as composed:
        attach(composed, vllm)
        assert (await ended(composed, begun))["figures"]["exact"] == 1.0
        while list((composed.server.settings.home / "evaluations").iterdir()):  # the chats go right after it
            await asyncio.sleep(0.001)


async def test_a_passing_refusal_is_waited_for(
    composed: Composed, vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluator, "_WAIT_S", 0.001)
    composed.server.engine.gate.detach()
    begun = await begin(composed, 1, turns=2)
    await asyncio.sleep(0.01)
    composed.server.engine.gate.attach(vllm)
    assert (await ended(composed, begun))["state"] == "finished"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (CHATS + b"\n{nonsense", "Line 21"),
        (b'{"messages": [{"role": "user", "content": "Hi"}]}', "Line 1"),
        (b"\n\n", "no turn of an assistant"),
    ],
)
async def test_unusable_chats_are_told_with_their_line(composed: Composed, data: bytes, told: str) -> None:
    failed = await ended(composed, await begin(composed, 1, data, turns=100))
    assert failed["state"] == "failed"
    assert told in failed["error"]


async def test_what_is_refused_at_once(composed: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"{ADAPTER}/versions/1/evaluations"
    for request, status, code in (
        ({"content": b"", "headers": OCTETS}, 400, "evaluation_refused"),
        ({"json": {}}, 400, "invalid_request"),
        ({"content": CHATS, "headers": OCTETS, "params": {"turns": 0}}, 400, "invalid_request"),
        ({"content": CHATS, "headers": OCTETS, "params": {"turns": 2001}}, 400, "invalid_request"),
    ):
        answer = await composed.ask("POST", path, **request)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    monkeypatch.setattr(data_files, "MAX_BYTES", 100)
    answer = await composed.ask("POST", path, content=CHATS, headers=OCTETS)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "evaluation_refused")
    answer = await composed.ask("POST", f"{ADAPTER}/versions/9/evaluations", content=CHATS, headers=OCTETS)
    assert answer.status_code == 404


async def test_another_tenants_evaluations_do_not_exist(composed: Composed) -> None:
    begun = await ended(composed, await begin(composed, 1, turns=1))
    made = await composed.make("POST", "/admin/v1/keys", json={"tenant": "globex", "role": "tenant_admin"})
    for method, path in (
        ("GET", f"{ADAPTER}/evaluations"),
        ("GET", f"{ADAPTER}/evaluations/{begun['id']}"),
        ("DELETE", f"{ADAPTER}/evaluations/{begun['id']}"),
        ("POST", f"{ADAPTER}/versions/1/evaluations"),
        ("PUT", f"{ADAPTER}/condition"),
        ("DELETE", f"{ADAPTER}/condition"),
    ):
        body = {"json": {"if": "loss < 1"}} if method == "PUT" else {}
        answer = await composed.ask(method, path, made["secret"], **body)
        assert answer.status_code == 404, (method, path)
    other = f"/admin/v1/adapters/globex/tools/evaluations/{begun['id']}"
    assert (await composed.ask("GET", other)).status_code == 404, "nor under the name of another adapter"


async def test_a_tenant_may_have_so_many_at_the_same_time(composed: Composed, vllm: FakeVllm) -> None:
    vllm.pause.clear()
    begun = [await begin(composed, 1, turns=turns) for turns in range(1, 9)]
    refused = await composed.ask(
        "POST", f"{ADAPTER}/versions/1/evaluations", content=CHATS, params={"turns": 9}, headers=OCTETS
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_evaluations")
    assert refused.headers["retry-after"]
    vllm.pause.set()
    for each in begun:
        assert (await ended(composed, each))["state"] == "finished"


async def test_a_condition_lets_the_better_version_pass_and_refuses_the_worse_one(composed: Composed) -> None:
    for number in (1, 2):
        await ended(composed, await begin(composed, number))
    body = {"version": 2, "if": "exact >= @current - 0.01"}
    refused = await composed.ask("POST", f"{ADAPTER}/promote", json=body)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (409, "condition_not_met")
    assert "exact is 0, and @current - 0.01 is 0.99" in error["message"]
    assert (await composed.make("GET", ADAPTER))["alias"]["targets"][0]["version"] == 1
    await composed.make("POST", f"{ADAPTER}/promote", json={"version": 2, "if": "loss <= @current"})
    await composed.make("POST", f"{ADAPTER}/promote", json={"version": 1, "if": "exact > @current"})
    audit = await composed.make("GET", "/admin/v1/audit?subject=acme-support")
    met = [entry["details"]["condition"] for entry in audit["data"] if "condition" in entry["details"]]
    assert met[0]["conditions"] == ["exact > @current"]
    assert {number: figures["exact"] for number, figures in met[0]["figures"].items()} == {
        "1": 1.0,
        "2": 0.0,
    }


async def test_an_adapters_own_condition_holds_for_every_way_to_traffic(composed: Composed) -> None:
    bad = await composed.ask("PUT", f"{ADAPTER}/condition", json={"if": "loss = 1"})
    assert (bad.status_code, bad.json()["error"]["code"]) == (400, "bad_condition")
    set_ = await composed.make("PUT", f"{ADAPTER}/condition", json={"if": "exact  >= @current"})
    assert set_ == {"condition": "exact >= @current"}
    assert (await composed.make("GET", ADAPTER))["condition"] == "exact >= @current"
    source = {"source": str(demo.ADAPTERS["acme-support"].path)}
    for path, body in (
        ("promote", {"version": 2}),
        ("split", {"weights": {1: 90, 2: 10}}),
        ("versions", source),
        ("blend", {"of": [{"adapter": "support", "version": 1}]}),
    ):
        refused = await composed.ask("POST", f"{ADAPTER}/{path}", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "condition_not_met"), path
    assert await composed.make("DELETE", f"{ADAPTER}/condition") == {"condition": None}
    await composed.make("POST", f"{ADAPTER}/promote", json={"version": 2})
    await composed.make("PUT", f"{ADAPTER}/condition", json={"if": "exact > @current"})
    await composed.make("POST", f"{ADAPTER}/rollback", json={})


def facts(**changes: Any) -> dict[str, Any]:
    plain = {"is_right": True, "stops": True, "repeats": False, "expects_calls": False, "is_json": None}
    return plain | {"loss": 2.0, "target_tokens": 4, "answer_tokens": 3} | changes


def test_each_token_counts_once_and_turns_that_are_too_long_are_told() -> None:
    found = figures_of([facts(), facts(loss=4.0, target_tokens=8, is_right=False), {"too_long": True}])
    assert (found["loss"], found["exact"], found["turns"], found["too_long"]) == (0.5, 0.5, 2, 1)
    assert found["calls_right"] is None
    assert figures_of([facts(expects_calls=True), facts()])["calls_right"] == 1.0


def test_all_turns_too_long_is_a_refusal() -> None:
    with pytest.raises(Exception, match="All 1 turns are longer"):
        figures_of([{"too_long": True}])


def test_slices_keep_the_numbers_of_the_lines(tmp_path: Path) -> None:
    files = data_files.DataFiles(tmp_path)
    (tmp_path / "x.jsonl").write_bytes(CHATS)
    slices = files.slices("x")
    assert [each.first_line for each in slices] == [1, 1 + data_files._SLICE_LINES]
    assert b"\n".join(each.raw for each in slices) == CHATS


def test_the_facts_of_answers_are_compared_line_by_line() -> None:
    turns = held_out.read_turns(CHATS, 1, RENDERING).turns
    found = held_out.compare_answers(CHATS, 1, RENDERING, [turns[0].target, turns[0].target])
    assert [each.is_right for each in found] == [True, False]
    assert isinstance(found[0], AnswerFacts)


def test_a_tenants_training_file_sets_no_argument_of_the_tokenizer() -> None:
    hostile = {
        "hyperparameters": {"template_kwargs": {"chat_template": "x", "tokenize": True, "a": [1], "b": 1}}
    }
    kwargs = held_out.template_kwargs_of(hostile)
    assert kwargs == {"chat_template": "x", "tokenize": True, "b": 1}
    rendered = held_out.read_turns(CHATS, 1, Rendering(demo.MODEL_DIR, "<|im_end|>", kwargs))
    assert rendered == held_out.read_turns(CHATS, 1, RENDERING)
