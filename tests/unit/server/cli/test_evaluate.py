"""`loragate adapter evaluate`, `condition` and `--if`: what is sent, what is printed, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from server.cli.adapters import evaluate as module
from server.cli.adapters.admin_client import AdminClient
from server.cli.adapters.evaluate import parse_against, parse_version
from server.cli.main import main

FIGURES = {"turns": 3, "exact": 0.5, "loss": 0.25}


class Server:
    """Answers the command; an evaluation has run when it was asked for twice."""

    def __init__(self, ends: str = "finished") -> None:
        self.ends = ends
        self.sent: list[tuple[str, str, dict[str, Any]]] = []
        self.done = 0

    def call(self, method: str, path: str, **request: Any) -> Any:
        if path == "/live":
            return {"state": "ready"}
        if "content" in request:
            request["content"] = request["content"].read()
        self.sent.append((method, path, request))
        if path.endswith("/condition"):
            return {"condition": request["json"]["if"] if method == "PUT" else None}
        if path.endswith("/promote"):
            return {"generation": 2, "targets": [], "proven_on": ["a"]}
        number = int(path.split("/")[5]) if method == "POST" else 4
        self.done += method == "GET"
        state = self.ends if self.done >= 2 else "running"
        return {
            "id": "e1", "tenant": "acme", "adapter": "support", "version": number, "state": state,
            "turns": 3, "done": self.done, "data_digest": "d" * 64,
            "figures": FIGURES if state == "finished" else None,
            "error": "Line 2 is no chat." if state == "failed" else None,
        }  # fmt: skip


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(AdminClient, "call", lambda self, *a, **k: server.call(*a, **k))
    monkeypatch.setattr(module, "_POLL_S", 0)
    return server


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["adapter", *arguments, "--key", "k"])


@pytest.fixture
def chats(tmp_path: Path) -> str:
    (tmp_path / "heldout.jsonl").write_bytes(b"chats")
    return str(tmp_path / "heldout.jsonl")


def test_it_sends_the_chats_waits_and_prints_the_figures(server: Server, chats: str) -> None:
    result = run("evaluate", "acme-support@4", "--data", chats, "--turns", "3")
    assert result.exit_code == 0, result.output
    method, path, request = server.sent[0]
    assert (method, path) == ("POST", "/adapters/acme/support/versions/4/evaluations")
    assert request["content"] == b"chats"
    assert request["params"] == {"turns": 3, "max_tokens": 256}
    assert request["headers"] == {"content-type": "application/octet-stream"}
    assert "@4: 1 of 3 turns" in result.output
    assert "0.25" in result.output and "finished" in result.output


def test_a_judge_is_named_only_if_there_is_one(server: Server, chats: str) -> None:
    run("evaluate", "acme-support@4", "--data", chats, "--judge", "large")
    assert server.sent[0][2]["params"] == {"turns": 200, "max_tokens": 256, "judge": "large"}


def test_against_another_version_both_are_evaluated_on_the_same_chats(server: Server, chats: str) -> None:
    result = run("evaluate", "acme-support@4", "--data", chats, "--against", "@3", "--json")
    assert [path.split("/")[5] for method, path, _ in server.sent if method == "POST"] == ["4", "3"]
    assert len({request["content"] for method, _, request in server.sent if method == "POST"}) == 1
    assert [each["state"] for each in json.loads(result.stdout)] == ["finished", "finished"]


def test_without_waiting_it_has_only_begun(server: Server, chats: str) -> None:
    result = run("evaluate", "acme-support@4", "--data", chats, "--no-wait", "--json")
    assert json.loads(result.stdout)["state"] == "running"
    assert [method for method, *_ in server.sent] == ["POST"]


def test_a_failure_is_the_exit_code_and_its_reason(server: Server, chats: str) -> None:
    server.ends = "failed"
    result = run("evaluate", "acme-support@4", "--data", chats)
    assert result.exit_code == 1
    assert "@4 failed: Line 2 is no chat." in result.output


def test_a_condition_is_set_shown_and_removed(server: Server) -> None:
    result = run("condition", "acme", "support", "loss < @current")
    assert "acme-support promotes a version only if loss < @current" in result.output
    assert run("condition", "acme", "support", "--off", "--json").stdout == '{"condition": null}\n'
    assert [method for method, *_ in server.sent] == ["PUT", "DELETE"]
    assert run("condition", "acme", "support", "loss < 1", "--off").exit_code == 2


def test_a_promotion_brings_its_condition(server: Server) -> None:
    assert run("promote", "acme", "support", "4", "--if", "loss < @current").exit_code == 0
    assert server.sent[0][2]["json"] == {"version": 4, "expected_generation": None, "if": "loss < @current"}


@pytest.mark.parametrize("text", ["acme", "acme-support", "acme-support@0", "support@4", "acme-support@x"])
def test_a_version_is_written_with_its_number(text: str) -> None:
    with pytest.raises(click.BadParameter, match="for example acme-support@4"):
        parse_version(text)


def test_names_may_have_dashes() -> None:
    assert parse_version("acme-support-de@12") == ("acme", "support-de", 12)
    assert (parse_against("@3"), parse_against("3")) == (3, 3)
    with pytest.raises(click.BadParameter, match="for example @3"):
        parse_against("three")
