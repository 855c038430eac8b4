"""Judges of evaluations: a real endpoint that the operator has set, away, slow, or misleading."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from judge_endpoint import JudgeDouble, judge_endpoint

import demo
from adapters.training.evaluation.held_out import AnswerText
from server.background.evaluations import judges as judges_module
from server.background.evaluations.figures import figures_of
from server.background.evaluations.judges import Judges
from server.config.judges import JudgeModel, judges_of
from server.config.settings import load
from server.errors import SettingsError
from tests.unit.server.app.composed import Composed, compose
from tests.unit.server.background.evaluations.stand_in import ADAPTER, CHATS, FakeVllm, attach, begin, ended

RIGHT = AnswerText("user: one", "1", "1")
WRONG = AnswerText("user: one", "1", "2")


def longest(_: str, a: str, b: str) -> str:
    return f"Verdict: {'tie' if len(a) == len(b) else 'A' if len(a) > len(b) else 'B'}"


@pytest.fixture
def judge() -> Iterator[JudgeDouble]:
    with judge_endpoint(longest) as double:
        yield double


@pytest.fixture
async def judges(judge: JudgeDouble) -> AsyncIterator[Judges]:
    made = Judges({"large": JudgeModel(judge.url, "referee")}, {"large": "secret"})
    yield made
    await made.aclose()


async def score(judges: Judges, *answers: AnswerText) -> list[dict[str, Any]]:
    judging = judges.begin("large")
    assert judging is not None
    return await judging.judge(answers)


async def test_answers_are_compared_with_the_expected_ones_in_both_orders(
    judges: Judges, judge: JudgeDouble
) -> None:
    better, worse = AnswerText("user: one", "1", "one"), AnswerText("user: one", "one", "1")
    found = await score(judges, RIGHT, WRONG, better, worse)
    assert [each["points"] for each in found] == [0.5, 0.5, 1.0, 0.0]
    assert len(judge.asked) == 6, "equal answers are a tie without a question"
    assert judge.keys == {"Bearer secret"} and {body["model"] for body in judge.asked} == {"referee"}
    judge.opinion = lambda *_: "I cannot tell."
    assert await score(judges, WRONG) == [{"points": 0.5, "unclear": 2}]


@pytest.mark.parametrize(
    ("status", "headers", "told"),
    [
        (500, {}, "The judge large answered with status 500."),
        (401, {}, "The judge large answered with status 401."),
        (307, {"location": "http://127.0.0.1:1/"}, "The judge large answered with status 307."),
    ],
)
async def test_a_judge_that_fails_is_a_reason_and_no_error(
    judges: Judges,
    judge: JudgeDouble,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    headers: dict[str, str],
    told: str,
) -> None:
    monkeypatch.setattr(judges_module, "_RETRIES", 0)
    judge.status, judge.headers = status, headers
    judging = judges.begin("large")
    assert judging is not None
    assert await judging.judge([WRONG, WRONG]) == [{"not_judged": told}] * 2
    judge.status = 200
    assert await judging.judge([WRONG]) == [{"not_judged": told}], "it is not asked again"
    assert len(judge.asked) <= 2


async def test_nobody_there_and_no_time_left(monkeypatch: pytest.MonkeyPatch, judge: JudgeDouble) -> None:
    monkeypatch.setattr(judges_module, "_RETRIES", 0)
    models = {"large": JudgeModel("http://127.0.0.1:1/v1", "m"), "slow": JudgeModel(judge.url, "m")}
    made = Judges(models, dict.fromkeys(models, ""))
    told = "The judge large cannot be reached (APIConnectionError)."
    assert await score(made, WRONG) == [{"not_judged": told}]
    monkeypatch.setattr(judges_module, "_MOST_S", 0.0)
    judging = made.begin("slow")
    assert judging is not None
    assert await judging.judge([WRONG]) == [{"not_judged": "The judge slow took more than 0 minutes."}]
    await made.aclose()


async def test_so_many_questions_at_the_same_time(judges: Judges, monkeypatch: pytest.MonkeyPatch) -> None:
    running = most = 0
    client = judges._client("large")
    true_create = client.chat.completions.create

    async def create(**asked: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return await true_create(**asked)
        finally:
            running -= 1

    monkeypatch.setattr(client.chat.completions, "create", create)
    await score(judges, *[WRONG] * 12)
    assert most == judges_module._AT_ONCE


def test_one_turn_without_points_leaves_no_win_rate() -> None:
    plain = {"is_right": True, "stops": True, "repeats": False, "expects_calls": False, "is_json": None}
    plain |= {"loss": 1.0, "target_tokens": 2, "answer_tokens": 2}
    whole = figures_of([plain | {"points": 1.0, "unclear": 0}, plain | {"points": 0.5, "unclear": 2}])
    assert (whole["win_rate"], whole["unclear"]) == (0.75, 2)
    part = figures_of([plain | {"points": 1.0, "unclear": 0}, plain | {"not_judged": "Why."}])
    assert (part["win_rate"], part["not_judged"]) == (None, "Why.")
    assert "win_rate" not in figures_of([plain])


@pytest.fixture
async def composed(tmp_path: Path, judge: JudgeDouble) -> AsyncIterator[Composed]:
    key = tmp_path / "key"
    key.write_text("from-a-file\n")
    judges = {"large": {"url": judge.url, "model": "referee", "key_file": str(key)}}
    async with compose(tmp_path, judges=json.dumps(judges)) as composed:
        attach(composed, FakeVllm.with_answers())
        body = {"source": str(demo.ADAPTERS["acme-support"].path)}
        for promote in (True, False):
            await composed.make("POST", f"{ADAPTER}/versions", json={**body, "promote": promote})
        yield composed


@pytest.mark.slow
async def test_an_evaluation_has_the_judges_figure_and_conditions_use_it(
    composed: Composed, judge: JudgeDouble
) -> None:
    good, bad = [await ended(composed, await begin(composed, n, judge="large")) for n in (1, 2)]
    assert (good["figures"]["win_rate"], bad["figures"]["win_rate"]) == (0.5, 0.0)
    assert judge.keys == {"Bearer from-a-file"}
    assert good["options"]["judge"] == "large"
    body = {"version": 2, "if": "win_rate >= @current"}
    refused = await composed.ask("POST", f"{ADAPTER}/promote", json=body)
    assert refused.status_code == 409 and "win_rate is 0" in refused.json()["error"]["message"]
    unknown = await composed.ask(
        "POST",
        f"{ADAPTER}/versions/1/evaluations",
        content=CHATS,
        params={"judge": "http://169.254.169.254"},
        headers={"content-type": "application/octet-stream"},
    )
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (400, "evaluation_refused")
    assert "there is: large" in unknown.json()["error"]["message"]


@pytest.mark.slow
async def test_without_its_judge_an_evaluation_ends_and_can_be_asked_for_again(
    composed: Composed, judge: JudgeDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judges_module, "_RETRIES", 0)
    judge.status = 503
    found = await ended(composed, await begin(composed, 2, judge="large"))
    assert (found["state"], found["figures"]["win_rate"]) == ("finished", None)
    assert found["figures"]["not_judged"] == "The judge large answered with status 503."
    assert found["figures"]["exact"] == 0.0, "the others are there"
    refused = await composed.ask("POST", f"{ADAPTER}/promote", json={"version": 2, "if": "win_rate > 0.4"})
    assert "was not measured: The judge large answered with status 503" in refused.json()["error"]["message"]
    judge.status = 200
    again = await ended(composed, await begin(composed, 2, judge="large"))
    assert (again["id"], again["figures"]["win_rate"]) == (found["id"], 0.0)


@pytest.mark.parametrize(
    ("judges", "told"),
    [
        ({"a b": {"url": "https://x", "model": "m"}}, "has the name 'a b'"),
        ({"large": "https://x"}, "large must have url, model, key_file as text"),
        ({"large": {"url": "https://x", "model": 3}}, "large must have"),
        ({"large": {"url": "https://x", "model": "m", "key": "s3cret"}}, "large must have"),
        ({"large": {"url": "file:///etc/passwd", "model": "m"}}, "large needs a url"),
        ({"large": {"url": "https://user:s3cret@x/", "model": "m"}}, "large needs a url"),
        ({"large": {"url": "https://x"}}, "large needs a url"),
    ],
)
def test_a_setting_that_cannot_be_used(judges: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told) as caught:
        load({"demo": True, "judges": judges})
    assert "s3cret" not in str(caught.value)


def test_a_key_that_cannot_be_read_names_the_file(tmp_path: Path) -> None:
    judge = {"url": "https://x/v1", "model": "m", "key_file": str(tmp_path / "none")}
    (model,) = judges_of(load({"demo": True, "judges": {"large": judge}})).values()
    with pytest.raises(SettingsError, match=r"--judges: key_file .*none cannot be read"):
        model.key()


def test_the_client_never_follows_a_redirect(judges: Judges) -> None:
    client = judges._client("large")
    assert isinstance(client, openai.AsyncOpenAI) and not client._client.follow_redirects
