"""`loragate tenant`, `key` and `audit` do the same on a database and, with --url, on a running server."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from server.cli.main import main
from tests.unit.server.cli.conftest import Run


def rows(result: Result) -> list[dict]:
    return json.loads(result.stdout)


def test_the_life_of_a_tenant(run: Run) -> None:
    assert "loragate key add initech" in run("tenant", "add", "initech", "--rpm", "60").stdout
    assert "initech" in run("tenant", "add", "initech", code=1).output
    run("tenant", "set", "initech", "--unlimited", "rpm", "--weight", "2", "--kv-guarantee", "0.25")
    (row,) = rows(run("tenant", "show", "initech", "--json"))
    assert (row["rpm"], row["weight"], row["kv_guarantee"]) == (None, 2.0, 0.25)
    assert row in rows(run("tenant", "list", "--json"))
    assert "0.25 of the KV cache is guaranteed; 0.75 is free." in run("tenant", "list").stderr
    assert "weight is 0.0" in run("tenant", "set", "initech", "--weight", "0", code=1).output
    assert rows(run("tenant", "usage", "initech", "--json")) == []
    run("tenant", "remove", "initech", "--yes")
    assert "initech" in run("tenant", "show", "initech", code=1).output


def test_records_are_turned_on_and_off(run: Run) -> None:
    run("tenant", "add", "stark")
    told = run("tenant", "records", "stark", "--share", "0.1", "--pattern", r"KD-\d+").stdout
    assert told == "0.1 of the requests of tenant stark are kept.\n"
    (row,) = rows(run("tenant", "show", "stark", "--json"))
    assert row["records"] == {"share": 0.1, "patterns": [r"KD-\d+"]}
    assert "no regular expression" in run("tenant", "records", "stark", "--pattern", "(", code=1).output
    assert "--off" in run("tenant", "records", "stark", "--off", "--share", "1", code=2).output
    assert "No more" in run("tenant", "records", "stark", "--off").stdout
    assert rows(run("tenant", "show", "stark", "--json"))[0]["records"] is None
    run("tenant", "remove", "stark", "--yes")


def test_the_life_of_a_key(run: Run) -> None:
    run("tenant", "add", "umbrella")
    made = run("key", "add", "umbrella", "--model", "umbrella-x", "--expires-in-days", "2", "--note", "app")
    key_id = made.stderr.split()[1].rstrip(";")
    (row,) = rows(run("key", "list", "umbrella", "--json"))
    assert (row["id"], row["models"], row["note"]) == (key_id, "umbrella-x", "app") and row["expires_at"]

    run("key", "set", key_id, "--all-models", "--never-expires")
    (row,) = rows(run("key", "list", "umbrella", "--json"))
    assert (row["models"], row["expires_at"], row["note"]) == (None, None, "app")
    run("key", "set", key_id, "--model", "umbrella-y", "--note", "")
    (row,) = rows(run("key", "list", "umbrella", "--json"))
    assert (row["models"], row["note"]) == ("umbrella-y", "")

    rotated = run("key", "rotate", key_id, "--overlap-s", "60")
    assert rotated.stdout.startswith("lg-") and rotated.stdout != made.stdout
    old, new = rows(run("key", "list", "umbrella", "--json"))
    assert old["revoked_at"] and not new["revoked_at"] and new["models"] == "umbrella-y"
    run("key", "revoke", new["id"], "--in-s", "60")
    assert all(row["revoked_at"] for row in rows(run("key", "list", "umbrella", "--json")))
    assert "k_none" in run("key", "revoke", "k_none", code=1).output
    assert "k_none" in run("key", "set", "k_none", "--note", "x", code=1).output
    run("tenant", "remove", "umbrella", "--yes")


def test_the_limits_of_a_key_and_a_budget_in_money(run: Run) -> None:
    run("tenant", "add", "globo", "--money-budget", "250.00")
    assert rows(run("tenant", "show", "globo", "--json"))[0]["money_budget"] == "250"
    run("tenant", "set", "globo", "--unlimited", "money-budget", "--budget-period", "day")
    (row,) = rows(run("tenant", "show", "globo", "--json"))
    assert (row["money_budget"], row["budget_period"]) == (None, "day")
    made = run("key", "add", "globo", "--rpm", "5", "--money-budget", "2.50")
    key_id = made.stderr.split()[1].rstrip(";")
    assert rows(run("key", "list", "globo", "--json"))[0]["limits"] == {"rpm": 5, "money_budget": "2.5"}
    run("key", "set", key_id, "--tpm", "100", "--unlimited", "rpm", "--note", "Ann", "--model", "globo-x")
    (row,) = rows(run("key", "list", "globo", "--json"))
    assert row["limits"] == {"tpm": 100, "money_budget": "2.5"}
    assert (row["note"], row["models"]) == ("Ann", "globo-x")
    run("key", "set", key_id, code=2)
    assert "money_budget is '0'" in run("key", "set", key_id, "--money-budget", "0", code=1).output
    assert "no limit 'colour'" in run("key", "set", key_id, "--unlimited", "colour", code=1).output
    (entry, *_) = rows(run("audit", "--subject", key_id, "--action", "key.set", "--json"))
    assert entry["details"] == {"changed": ["models", "note"], "tpm": 100, "rpm": None}
    assert rows(run("usage", "globo", "--keys", "--json")) == []
    run("tenant", "remove", "globo", "--yes")


def test_the_log_of_changes_is_searched_and_exported(run: Run) -> None:
    for name in ("hooli", "hooli_two", "100%"):
        run("tenant", "add", name, code=0 if name != "100%" else 1)
    run("tenant", "set", "hooli", "--rpm", "5")
    found = rows(run("audit", "--subject", "hooli", "--json"))
    assert [entry["action"] for entry in found] == ["tenant.set", "tenant.add"]
    assert {entry["subject"] for entry in rows(run("audit", "--search", "HOOLI", "--json"))} == {
        "hooli", "hooli_two",
    }  # fmt: skip
    assert len(rows(run("audit", "--search", "hooli", "--action", "tenant.a", "--json"))) == 2
    assert rows(run("audit", "--search", "%", "--json")) == []
    assert rows(run("audit", "--actor", "nobody", "--json")) == []
    assert rows(run("audit", "--search", "hooli", "--to", "2020-01-01", "--json")) == []
    assert len(rows(run("audit", "--search", "hooli", "--from", "2020-01-01", "--limit", "2", "--json"))) == 2
    (header, first, *_) = csv.reader(io.StringIO(run("audit", "--subject", "hooli", "--csv").stdout))
    assert header[0] == "at" and first[3:5] == ["tenant.set", "hooli"] and json.loads(first[5])
    for name in ("hooli", "hooli_two"):
        run("tenant", "remove", name, "--yes")


def test_an_export_reads_page_by_page(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.cli.tenants.over_http._PAGE", 3)
    args = ["audit", "--url", url, "--key", "demo-admin", "--json", "--limit", "8"]
    for name in ("pied", "piper", "aviato"):
        for command in (["add", name], ["remove", name, "--yes"]):
            CliRunner().invoke(main, ["tenant", *command, "--url", url, "--key", "demo-admin"])
    found = rows(CliRunner().invoke(main, args))
    newest = httpx.get(
        f"{url}/admin/v1/audit?limit=8", headers={"authorization": "Bearer demo-admin"}
    ).json()["data"]
    assert len(found) == 8 and [row["subject"] for row in found] == [row["subject"] for row in newest]


def test_where_a_command_goes(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LORAGATE_URL names the server, unless an option names a database; both in options is a mistake."""
    both = CliRunner().invoke(main, ["tenant", "list", "--url", url, "--data-dir", str(tmp_path)])
    assert both.exit_code == 2 and "give one of them" in both.output
    monkeypatch.setenv("LORAGATE_URL", url)
    monkeypatch.setenv("LORAGATE_KEY", "demo-admin")
    assert "acme" in CliRunner().invoke(main, ["tenant", "list"]).stdout
    assert CliRunner().invoke(main, ["tenant", "list", "--data-dir", str(tmp_path)]).stdout == "none\n"
    monkeypatch.setenv("LORAGATE_KEY", "demo-acme")
    refused = CliRunner().invoke(main, ["tenant", "list"])
    assert refused.exit_code == 1 and "operator" in refused.output
