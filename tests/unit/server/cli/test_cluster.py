"""`loragate deploy`, `front` and `cluster`: what is sent, said and refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from ray_dashboard import Dashboard, dashboard

from server.cli.adapters.admin_client import AdminClient
from server.cli.main import main
from server.cluster.ray_cluster import serve_api

FILE = """
replicas = 2
data_dir = "/d"
generation = "{generation}"
[server]
model = "m"
depot = "s3://b"
database_url = "postgresql+asyncpg://db/loragate"
"""


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dashboard]:
    monkeypatch.setattr(serve_api, "_POLL_S", 0.0)
    with dashboard() as running:
        yield running


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "cluster.toml"
    file.write_text(FILE.format(generation="1"), encoding="utf-8")
    return file


def deploy(file: Path, *options: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["deploy", str(file), *options])
    assert result.exit_code == code, result.output
    return result


def test_the_second_time_changes_nothing_and_a_new_generation_replaces(ray: Dashboard, file: Path) -> None:
    ray.steps = [
        ("DEPLOYING", ["STARTING"]),
        ("DEPLOYING", ["STARTING", "RUNNING"]),
        ("RUNNING", ["RUNNING"] * 2),
    ]
    created = deploy(file, "--address", ray.url)
    assert created.stdout == f"{file}: creates\n"
    assert "deploying: 1 running, 1 starting; 2 wanted\nrunning: 2 running; 2 wanted\n" in created.stderr
    assert json.loads(deploy(file, "--address", ray.url, "--json").stdout) == {"change": "nothing"}
    file.write_text(FILE.format(generation="2"), encoding="utf-8")
    assert "replaces" in deploy(file, "--address", ray.url).stdout
    assert [told["applications"][0]["args"]["generation"] for told in ray.told] == ["1", "1", "2"]


def test_old_servers_that_still_stop_are_waited_for(ray: Dashboard, file: Path) -> None:
    ray.steps = [("RUNNING", ["RUNNING", "RUNNING", "STOPPING"]), ("RUNNING", ["RUNNING", "RUNNING"])]
    assert "1 stopping" in deploy(file, "--address", ray.url).stderr


def test_servers_that_do_not_start_fail_the_command(ray: Dashboard, file: Path) -> None:
    ray.steps = [("DEPLOY_FAILED", [])]
    assert "why" in deploy(file, "--address", ray.url, code=1).output
    ray.steps = [("DEPLOYING", ["STARTING"])]
    assert (
        "not complete after 0.01 s" in deploy(file, "--address", ray.url, "--wait-s", "0.01", code=1).output
    )
    assert deploy(file, "--address", ray.url, "--wait-s", "0").stderr == ""


def test_what_a_cluster_refuses_is_said(ray: Dashboard, file: Path) -> None:
    ray.refusal = 400
    assert "answers 400" in deploy(file, "--address", ray.url, code=1).output
    gone = deploy(file, "--address", "http://127.0.0.1:9", code=1).output
    assert "name it with --address" in gone


def test_a_dry_run_prints_what_ray_would_get(file: Path) -> None:
    document = json.loads(deploy(file, "--dry-run", "--address", "http://127.0.0.1:9").stdout)
    (application,) = document["applications"]
    assert application["import_path"] == "server.cluster.deployment:build"


def test_sqlite_is_refused(file: Path) -> None:
    file.write_text(FILE.replace("postgresql+asyncpg", "sqlite+aiosqlite"), encoding="utf-8")
    assert "must name a PostgreSQL" in deploy(file, code=1).output


ROW = {
    "id": "r1", "server": "s", "url": "u", "version": "1", "state": "ready", "in_flight": 3, "waiting": 1,
    "kv_use": 0.5, "slots": 8, "computing": ["acme-support"], "held": ["acme-support", "acme-x"],
}  # fmt: skip


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []

    def call(self: AdminClient, method: str, path: str, **request: Any) -> Any:
        calls.append((method, path))
        silent = dict.fromkeys(ROW) | {"id": "r2", "state": "unreachable"}
        return {"data": [ROW, silent]} if method == "GET" else {"id": "s", "in_flight": 3}

    monkeypatch.setattr(AdminClient, "call", call)
    return calls


def test_status_shows_load_and_adapters(sent: list[Any]) -> None:
    shown = CliRunner().invoke(main, ["cluster", "status", "--key", "k"])
    assert sent == [("GET", "/cluster")]
    for text in ("r1", "50%", "1/8", "acme-support acme-x", "r2", "unreachable"):
        assert text in shown.output
    told = json.loads(CliRunner().invoke(main, ["cluster", "status", "--key", "k", "--json"]).output)
    assert told[0] == ROW and told[1]["held"] is None


def test_drain_names_the_server(sent: list[Any]) -> None:
    shown = CliRunner().invoke(main, ["cluster", "drain", "r1", "--key", "k"])
    assert sent == [("POST", "/cluster/r1/drain")] and "r1 finishes 3 requests" in shown.output
    shown = CliRunner().invoke(main, ["cluster", "drain", "r1", "--key", "k", "--json"])
    assert json.loads(shown.output)["in_flight"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("command", [["front"], ["deploy"]])
def test_without_a_cluster_it_says_how_to_get_one(command: list[str], file: Path) -> None:
    arguments = [*command, *([str(file)] if command == ["deploy"] else []), "--address", "127.0.0.1:9"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1 and "No Ray cluster can be joined at 127.0.0.1:9" in result.output
