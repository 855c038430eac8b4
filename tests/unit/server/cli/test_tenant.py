"""`loragate tenant` against a database: guarantees that fit together, and usage in all its formats."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from adapters.models import Usage
from adapters.registry import Registry, connect
from server.cli.main import main


@pytest.fixture
def home(tmp_path: Path, migrated_sqlite: Path) -> Path:
    """A data folder with an empty registry and tenants acme and globex."""
    shutil.copy(migrated_sqlite, tmp_path / "loragate.db")
    for name in ("acme", "globex"):
        assert run(tmp_path, "tenant", "add", name)[0] == 0
    return tmp_path


class Run:
    """The command line on one data folder; keeps the last output."""

    output = ""

    def __call__(self, home: Path, *args: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, [*args, "--data-dir", str(home)])
        self.output = result.output
        return result.exit_code, result.output


run = Run()


def test_guarantees_above_one_are_refused_with_the_arithmetic(home: Path) -> None:
    assert run(home, "tenant", "set", "acme", "--kv-guarantee", "0.7")[0] == 0
    code, out = run(home, "tenant", "set", "globex", "--kv-guarantee", "0.5")
    assert code == 1
    assert "kv_guarantee adds up to 1.2, above 1: 0.7 (acme) + 0.5 (globex)" in out
    code, out = run(home, "tenant", "add", "initech", "--kv-guarantee", "0.4")
    assert code == 1 and "0.4 (initech)" in out
    assert run(home, "tenant", "set", "acme", "--kv-guarantee", "0.2")[0] == 0, (
        "its own old share is not counted"
    )
    assert run(home, "tenant", "set", "globex", "--kv-guarantee", "0.8")[0] == 0
    assert "nobody" in run(home, "tenant", "set", "nobody", "--weight", "2")[1]


@pytest.fixture
def used(home: Path) -> Path:
    """Two hours of acme, one of globex."""
    march = datetime(2026, 3, 31, 23, tzinfo=UTC)

    async def add() -> None:
        engine = connect(f"sqlite+aiosqlite:///{home / 'loragate.db'}")
        entries = [
            Usage("acme", "support", 2, march, requests=1, prompt_tokens=10, generated_tokens=5, run_s=0.25),
            Usage("acme", "support", 2, march.replace(month=4, day=1, hour=0), requests=2, prompt_tokens=30),
            Usage("globex", "", 0, march, requests=4, kv_block_seconds=1.5),
        ]
        await Registry(engine).usage.add(entries)
        await engine.dispose()

    asyncio.run(add())
    return home


def test_usage_by_step_tenant_and_time(used: Path) -> None:
    def rows(*args: str) -> list[dict[str, object]]:
        code, out = run(used, "tenant", "usage", "--from", "2026-03-01", "--json", *args)
        assert code == 0, out
        listed: list[dict[str, object]] = json.loads(out)
        return listed

    assert [(row["tenant"], row["requests"]) for row in rows()] == [("acme", 1), ("globex", 4), ("acme", 2)]
    assert len(rows("acme", "--by", "hour")) == 2 and len(rows("acme", "--by", "month")) == 2
    assert [row["requests"] for row in rows("--to", "2026-04-01")] == [1, 4]
    assert [row["from"] for row in rows("acme", "--from", "2026-04-01")] == ["2026-04-01T00:00:00+00:00"]


def test_usage_as_csv_and_as_a_table(used: Path) -> None:
    code, out = run(used, "tenant", "usage", "--from", "2026-03-01", "--csv")
    assert code == 0
    found = list(csv.DictReader(io.StringIO(out)))
    assert [row["tenant"] for row in found] == ["acme", "globex", "acme"] and found[0]["run_s"] == "0.25"
    assert "support" in run(used, "tenant", "usage", "--from", "2026-03-01")[1]
    assert run(used, "tenant", "usage", "nobody", "--from", "2026-03-01")[1].strip() == "none"
    assert run(used, "tenant", "usage", "--csv", "--json")[0] == 2


def test_a_plan_knows_the_tenants_of_the_database(home: Path) -> None:
    run(home, "tenant", "set", "acme", "--kv-guarantee", "0.5")
    request = ["--model", "Qwen/Qwen2.5-3B", "--memory", "24GiB", "--max-model-len", "4096"]
    code, out = run(home, "plan", *request, "--json")
    made = json.loads(out)["plan"]
    assert code == 0 and made["guaranteed_tokens"]["acme"] == (made["kv_blocks"] - 1) // 2 * 16
    code, out = run(home, "plan", *request, "--guarantee", "a=0.6", "--guarantee", "b=0.6")
    assert code == 2 and "1.2 is above 1" in out
    assert run(home, "plan", *request, "--guarantee", "a")[0] == 2


def test_prices_change_the_bill_from_their_hour_on(used: Path) -> None:
    """Half a euro per million prompt tokens from the start of April on; before, nothing had a price."""
    backdated = ["--from", "2026-04-01", "--backdate"]
    code, out = run(used, "price", "set", "--prompt", "500000", "--generated", "0", *backdated)
    assert (code, out) == (0, "Set the price from 2026-04-01T00:00 UTC on.\n")
    code, out = run(used, "usage", "--from", "2026-03-01", "--by", "month", "--json", "--currency", "EUR")
    rows = json.loads(out)
    assert code == 0
    assert [(row["from"][:7], row["tenant"], row["cost"]) for row in rows] == [
        ("2026-03", "acme", "0"),
        ("2026-03", "globex", "0"),
        ("2026-04", "acme", "15"),
    ]
    assert {row["currency"] for row in rows} == {"EUR"}
    code, out = run(used, "tenant", "usage", "acme", "--from", "2026-03-01")
    assert code == 0 and out.endswith("15.00 USD in total\n")
    code, out = run(used, "usage", "acme", "--from", "2026-03-01", "--keys", "--csv")
    assert out.startswith(
        "from,tenant,key,adapter,requests,prompt_tokens,cached_tokens,generated_tokens,cost,currency"
    )


def test_keys_have_limits_of_their_own(home: Path) -> None:
    made = run(home, "key", "add", "acme", "--rpm", "5", "--money-budget", "2.50")
    assert made[0] == 0
    (key,) = json.loads(run(home, "key", "list", "acme", "--json")[1])
    assert key["limits"] == {"rpm": 5, "money_budget": "2.5"}
    assert run(home, "key", "set", key["id"], "--tpm", "100", "--unlimited", "rpm")[0] == 0
    (key,) = json.loads(run(home, "key", "list", "acme", "--json")[1])
    assert key["limits"] == {"tpm": 100, "money_budget": "2.5"}
    assert run(home, "key", "set", key["id"])[0] == 2
    code, out = run(home, "key", "add", "acme", "--money-budget", "0.0000001")
    assert code == 1 and "money_budget is '0.0000001'; set it to an amount from 0.000001" in out
    assert run(home, "tenant", "set", "acme", "--money-budget", "250")[0] == 0
    assert json.loads(run(home, "tenant", "show", "acme", "--json")[1])[0]["money_budget"] == "250"
