"""Evaluations on the real engine give the trainer's figures, and a worse version is refused by them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from uuid import uuid4

import httpx
import openai
import pytest
from click.testing import CliRunner, Result
from server_process import ServerProcess

import demo
from server.cli.main import main

SUPPORT, TOOLS = demo.ADAPTERS["acme-support"], demo.ADAPTERS["globex-tools"]


class Team:
    """A tenant of this test's own, and its commands."""

    def __init__(self, server: ServerProcess) -> None:
        self.url, self.name = server.url, f"e{uuid4().hex[:8]}"
        self.operator = httpx.Client(
            base_url=f"{server.url}/admin/v1", headers={"authorization": "Bearer demo-admin"}, timeout=60
        )
        self.operator.post("/tenants", json={"name": self.name}).raise_for_status()
        body = {"tenant": self.name, "role": "tenant_admin"}
        self.key = self.operator.post("/keys", json=body).raise_for_status().json()["secret"]

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["adapter", *arguments, "--url", self.url, "--key", self.key])


@pytest.fixture
def team(server: ServerProcess) -> Iterator[Team]:
    made = Team(server)
    for source in (SUPPORT, TOOLS):  # version 2 is a much worse answer to the same questions
        promote = "--promote" if source is SUPPORT else "--no-promote"
        added = made.run("add", made.name, "support", str(source.path), promote)
        assert added.exit_code == 0, added.output
    yield made
    made.operator.delete(f"/adapters/{made.name}/support")
    made.operator.delete(f"/tenants/{made.name}")
    made.operator.close()


def test_the_figures_are_the_trainers_and_decide_who_is_promoted(team: Team) -> None:
    model = f"{team.name}-support"
    arguments = ["evaluate", f"{model}@2", "--data", str(SUPPORT.held_out), "--against", "@1", "--json"]
    evaluated = team.run(*arguments)
    assert evaluated.exit_code == 0, evaluated.output
    worse, good = (each["figures"] for each in json.loads(evaluated.stdout))
    trained = json.loads((SUPPORT.path / "training.json").read_text())["scores"]["adapter"]
    assert good["turns"] == trained["turns"]
    assert good["loss"] == pytest.approx(trained["loss"], abs=0.01)
    assert good["exact"] == pytest.approx(trained["exact"], abs=0.03)
    assert worse["exact"] < 0.1
    refused = team.run("promote", team.name, "support", "2", "--if", "exact >= @current - 0.01")
    assert refused.exit_code == 1 and f"{model}@2 is not promoted" in refused.output
    assert team.run("promote", team.name, "support", "2", "--if", "loss > @current").exit_code == 0
    assert team.run("promote", team.name, "support", "1", "--if", "loss < @current").exit_code == 0
    usage = team.operator.get("/usage").json()["data"]
    assert {row["version"] for row in usage if row["tenant"] == team.name} == {1, 2}


def test_calls_are_scored(team: Team) -> None:
    arguments = [
        "evaluate",
        f"{team.name}-support@2",
        "--data",
        str(TOOLS.held_out),
        "--turns",
        "30",
        "--json",
    ]
    found = json.loads(team.run(*arguments).stdout)["figures"]
    assert found["call_turns"] > 10
    assert found["calls_right"] == pytest.approx(1.0, abs=0.1)
    assert found["json_valid"] == pytest.approx(1.0, abs=0.1)


def test_copies_of_requests_run_on_the_shadow(team: Team) -> None:
    model = f"{team.name}-support"
    assert team.run("shadow", model, "--to", "@2", "--share", "1").exit_code == 0
    made = team.operator.post("/keys", json={"tenant": team.name}).json()["secret"]
    with openai.OpenAI(base_url=f"{team.url}/v1", api_key=made, max_retries=0) as client:
        question = {"role": "user", "content": "What is the price of the Storm Fan?"}
        for stream in (False, True) * 4:
            answer = client.chat.completions.create(
                model=model, messages=[question], max_tokens=40, temperature=0, stream=stream
            )
            text = "".join(c.choices[0].delta.content or "" for c in answer if c.choices) if stream else (
                answer.choices[0].message.content
            )  # fmt: skip
            assert "72 dollars" in text, "the version that serves answers"
    deadline = time.monotonic() + 60
    while True:
        found = json.loads(team.run("shadow", model, "--json").stdout)["figures"].get("1", {})
        if found.get("ends", {"count": 0})["count"] >= 2 or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    assert found["ends"]["served"] == 1.0
    assert found["same_answer"]["shadow"] == 0.0
    assert found["answer_tokens"]["shadow"] > 0
    assert found["seconds"]["served"] > 0
