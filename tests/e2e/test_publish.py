"""From data to a served version with one command, all at once or as a canary."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import openai
import pytest
from click.testing import CliRunner, Result
from server_process import ServerProcess

import demo
from server.cli.main import main


class Team:
    """A tenant of this test's own, with an admin's and an application's key."""

    def __init__(self, server: ServerProcess) -> None:
        self.url = server.url
        self.name = f"p{uuid4().hex[:8]}"
        self.operator = httpx.Client(
            base_url=f"{server.url}/admin/v1", headers={"authorization": "Bearer demo-admin"}, timeout=60
        )
        self.call("POST", "/tenants", json={"name": self.name})
        self.admin_key = self.call("POST", "/keys", json={"tenant": self.name, "role": "tenant_admin"})[
            "secret"
        ]
        self.key = self.call("POST", "/keys", json={"tenant": self.name})["secret"]

    def call(self, method: str, path: str, **request: object) -> dict:
        response = self.operator.request(method, path, **request)  # type: ignore[arg-type]
        assert response.is_success, response.text
        return response.json() if response.content else {}

    def weights(self) -> dict[int, float]:
        alias = self.call("GET", f"/adapters/{self.name}/support")["alias"]
        return {target["version"]: target["weight"] for target in alias["targets"]}

    def flags(self, data: Path, out: Path, *more: str) -> list[str]:
        """`train` in its shortest useful form."""
        flags = {
            "--base": "demo", "--data": data, "--out": out, "--max-steps": 2, "--batch-samples": 2, "--measure": 4,
            "--max-new-tokens": 8, "--learning-rate": 6e-3, "--publish": self.url,
            "--publish-as": f"{self.name}/support", "--key": self.admin_key,
        }  # fmt: skip
        return ["train", *(str(part) for flag in flags.items() for part in flag), *more]


@pytest.fixture
def team(server: ServerProcess) -> Iterator[Team]:
    made = Team(server)
    yield made
    made.operator.delete(f"/adapters/{made.name}/support")
    made.operator.delete(f"/tenants/{made.name}")
    made.operator.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "chats.jsonl"
    lines = demo.ADAPTERS["acme-support"].data.read_text().splitlines()[:40]
    path.write_text("\n".join(lines) + "\n")
    return path


def run(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def test_a_trained_version_serves_and_the_next_is_its_canary(team: Team, data: Path, tmp_path: Path) -> None:
    done = run(*team.flags(data, tmp_path / "one"))
    assert done.exit_code == 0, done.output
    model = f"{team.name}-support"
    assert f"published {model}@1; {model} answers with it" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["steps"] == 2
    with openai.OpenAI(base_url=f"{team.url}/v1", api_key=team.key, max_retries=0) as client:
        answer = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Hello!"}], max_tokens=4
        )
    assert answer.model == model and answer.usage is not None and answer.usage.completion_tokens

    # The first canary of an adapter that serves nothing yet has no traffic to share; the second has.
    second = run(*team.flags(data, tmp_path / "two", "--seed", "2", "--canary", "25"))
    assert second.exit_code == 0, second.output
    assert f"published {model}@2; it gets 25 % of {model}'s traffic" in second.stderr
    assert team.weights() == {1: 75.0, 2: 25.0}
    third = run(*team.flags(data, tmp_path / "three", "--seed", "3", "--canary", "10"))
    assert third.exit_code == 0, third.output
    assert team.weights() == {1: 67.5, 2: 22.5, 3: 10.0}
    assert sum(team.weights().values()) == 100


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--key", "demo-acme"], "this key may only call models"),
        (["--key", "wrong"], "key"),
        (["--publish", "http://127.0.0.1:9"], "cannot be reached"),
        (["--key", "demo-admin", "--publish-as", "nobody/support"], "There is no tenant 'nobody'"),
        (["--publish-as", "acme"], "is not TENANT/NAME"),
        (["--canary", "100"], "not between 0 and 100"),
    ],
)
def test_what_cannot_be_published_is_told_before_the_training(
    team: Team, data: Path, tmp_path: Path, change: list[str], told: str
) -> None:
    done = run(*team.flags(data, tmp_path / "out", *change))
    assert done.exit_code in (1, 2)
    assert told in done.output
    assert not (tmp_path / "out").exists()


def test_a_finished_training_is_not_lost_when_publishing_fails(
    team: Team, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from server.cli.adapters.publish import Publication

    true_publish = Publication.publish

    def broken(self: Publication, folder: Path) -> str:
        shutil.copytree(folder, tmp_path / "kept")
        (folder / "adapter_config.json").unlink()
        return true_publish(self, folder)

    monkeypatch.setattr(Publication, "publish", broken)
    done = run(*team.flags(data, tmp_path / "out"))
    assert done.exit_code == 1
    assert "adapter_config.json" in done.output and "`loragate adapter add` uploads it again" in done.output
    sent = run(
        "adapter", "add", team.name, "support", str(tmp_path / "kept"), "--url", team.url, "--key", team.admin_key
    )  # fmt: skip
    assert sent.exit_code == 0, sent.output
