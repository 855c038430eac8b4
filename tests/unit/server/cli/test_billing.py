"""`loragate price` and `webhook` do the same on a database and, with --url, on a running server."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from server.cli.main import main
from tests.unit.server.cli.conftest import Run


def rows(result: Result) -> list[dict]:
    return json.loads(result.stdout)


def test_prices_are_set_listed_ended_and_removed(run: Run) -> None:
    run("tenant", "add", "initech")
    assert run("price", "set", "initech", "--prompt", "1", "--generated", "2.5").stdout.startswith("Set the ")
    (entry,) = rows(run("price", "list", "initech", "--json"))
    assert (entry["tenant"], entry["adapter"]) == ("initech", "")
    assert (entry["prompt"], entry["cached"], entry["generated"]) == ("1", "1", "2.5")
    assert "initech" in run("price", "list").stdout and "(all)" in run("price", "list").stdout
    run("price", "end", "initech")
    assert rows(run("price", "list", "initech", "--json"))[0]["prompt"] is None
    hour = entry["valid_from"][:16]
    assert run("price", "remove", "initech", "--from", hour).stdout == f"Removed the price from {hour} UTC.\n"
    run("price", "remove", "initech", "--from", hour, code=1)
    assert rows(run("price", "list", "initech", "--json")) == []
    refused = run("price", "set", "--prompt", "a lot", "--generated", "1", code=1)
    assert "prompt is 'a lot'; set it to an amount from 0 to 999999999" in refused.output
    past = ["price", "set", "initech", "--prompt", "1", "--generated", "1", "--from", "2026-01-01"]
    run(*past, code=1)
    assert "from 2026-01-01T00:00 UTC" in run(*past, "--backdate").stdout
    actions = [entry["action"] for entry in rows(run("audit", "--action", "price", "--json"))]
    assert actions[:2] == ["price.set", "price.remove"]


def test_webhooks_are_added_tested_and_removed(run: Run) -> None:
    run("tenant", "add", "umbrella")
    assert "begins with https://" in run("webhook", "add", "http://hooks.example.com/x", code=1).output
    assert "nobody" in run("webhook", "add", "https://a.example.com", "--tenant", "nobody", code=1).output
    made = run("webhook", "add", "https://hooks.example.com/x", "--tenant", "umbrella")
    assert made.stdout.startswith("whsec_") and "the only time" in made.stderr
    (hook,) = rows(run("webhook", "list", "--json"))
    assert (hook["tenant"], hook["events"]) == (
        "umbrella", ["adapter.rolled_back", "budget.threshold_reached"],
    )  # fmt: skip
    assert hook["id"] in made.stderr and "whsec_" not in run("webhook", "list").stdout
    assert run("webhook", "test", hook["id"]).stdout.startswith("Wrote msg_")
    (message,) = rows(run("webhook", "messages", hook["id"], "--json"))
    assert (message["event"], message["sent_at"]) == ("webhook.test", None)
    run("webhook", "remove", hook["id"])
    refused = run("webhook", "test", hook["id"], code=1)
    assert f"There is no webhook '{hook['id']}'" in refused.output
    run("webhook", "add", "https://hooks.example.com/all", "--event", "engine.failed")
    (hook,) = rows(run("webhook", "list", "--json"))
    assert (hook["tenant"], hook["events"]) == (None, ["engine.failed"])
    run("webhook", "remove", hook["id"])


def test_a_customers_admin_sees_its_prices_and_changes_nothing(url: str) -> None:
    made = ["key", "add", "acme", "--role", "tenant_admin", "--url", url, "--key", "demo-admin"]
    secret = CliRunner().invoke(main, made).stdout.strip()

    def run_as_acme(*args: str) -> Result:
        return CliRunner().invoke(main, [*args, "--url", url, "--key", secret])

    assert run_as_acme("price", "list", "--json").exit_code == 0
    assert run_as_acme("price", "list", "globex").exit_code == 1
    for refused in (["price", "set", "acme", "--prompt", "0", "--generated", "0"], ["webhook", "list"]):
        result = run_as_acme(*refused)
        assert result.exit_code == 1 and "operator" in result.output


def test_the_networks_of_a_database_s_webhooks(tmp_path: Path, url: str) -> None:
    inside = ["webhook", "add", "http://10.1.2.3/x", "--webhook-networks"]
    home = ["--data-dir", str(tmp_path)]
    assert CliRunner().invoke(main, [*inside, "10.1.0.0/16", *home]).exit_code == 0
    refused = CliRunner().invoke(main, [*inside, "everything", *home])
    assert refused.exit_code != 0 and "--webhook-networks everything is no list of networks" in refused.output
    both = CliRunner().invoke(main, [*inside, "10.1.0.0/16", "--url", url, "--key", "demo-admin"])
    assert both.exit_code == 2 and "give one of them" in both.output
