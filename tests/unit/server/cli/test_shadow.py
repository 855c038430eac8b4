"""`loragate adapter shadow`: what is sent and printed."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner, Result

from server.cli.adapters.admin_client import AdminClient
from server.cli.main import main

FIGURE = {"count": 40, "served": 0.9, "shadow": 0.8, "difference": -0.1, "low": -0.3, "high": 0.1}
FOUND = {"version": 4, "share": 0.05, "figures": {"3": {"ends": FIGURE}}}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []

    def call(self: AdminClient, method: str, path: str, **request: Any) -> Any:
        calls.append((method, path, request.get("json")))
        return {"version": None, "share": None, "figures": {}} if method == "DELETE" else FOUND

    monkeypatch.setattr(AdminClient, "call", call)
    return calls


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["adapter", "shadow", *arguments, "--key", "k"])


def test_it_begins_shows_and_ends(sent: list[Any]) -> None:
    begun = run("acme-support", "--to", "@4")
    assert sent[0] == ("PUT", "/adapters/acme/support/shadow", {"version": 4, "share": 0.05})
    assert "@4 gets copies of 5.0% of acme-support's requests" in begun.output
    shown = run("acme-support")
    assert sent[1][0] == "GET" and "-0.3 to 0.1" in shown.output
    assert "acme-support has no shadow" in run("acme-support", "--off").output
    assert sent[2][0] == "DELETE"
    assert '"version": 4' in run("acme-support", "--json").output


@pytest.mark.parametrize(
    "arguments",
    [("acme",), ("acme-x", "--to", "x"), ("acme-x", "--share", "0.1"), ("acme-x", "--off", "--to", "@1")],
)
def test_what_cannot_be_meant(sent: list[Any], arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2
    assert sent == []


def test_texts_are_shown_and_kept_only_if_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str]] = []
    pair = {
        "version": 4,
        "against": 3,
        "at": "2026-01-02",
        "prompt": "Why?",
        "served": "So.",
        "shadow": "Thus.",
    }

    def call(self: AdminClient, method: str, path: str, **request: Any) -> Any:
        calls.append((method, path))
        kept = method != "DELETE"
        return {"kept": kept, "by": "acme", "at": "2026-01-01", "data": [pair] if method == "GET" else []}

    monkeypatch.setattr(AdminClient, "call", call)
    assert "texts are kept, as acme has said on 2026-01-01" in run("acme-support", "--keep-texts").output
    shown = run("acme-support", "--texts").output
    assert "Why?" in shown and "@3: So.\n@4: Thus." in shown
    assert "no texts are kept" in run("acme-support", "--no-keep-texts").output
    assert '"kept": true' in run("acme-support", "--texts", "--json").output
    assert [method for method, _ in calls] == ["PUT", "GET", "DELETE", "GET"]
    assert {path for _, path in calls} == {"/adapters/acme/support/shadow/texts"}
