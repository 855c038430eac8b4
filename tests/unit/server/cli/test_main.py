"""The command line: instant help, one sentence for each refusal, JSON where asked."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from server.cli.main import COMMANDS, main
from server.config.settings import Settings


def run(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, args)
    return result.exit_code, result.output


def test_help_is_instant_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['loragate', '--help']\n"
        "from server.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'vllm', 'pydantic', 'sqlalchemy', 'fastapi') if m in sys.modules])"
    )
    began = time.monotonic()
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
    assert time.monotonic() - began < 5, "a shared machine may be slow; heavy imports would take longer still"
    for name in COMMANDS:
        assert name in out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(name: str) -> None:
    code, out = run(name, "--help")
    if name != "bench":  # its help is the benchmarks' own
        assert code == 0 and "Usage" in out


def test_every_setting_is_a_flag_of_serve() -> None:
    _, out = run("serve", "--help")
    for field in Settings.model_fields:
        assert f"--{field.replace('_', '-')}" in out, field


def test_usage_errors_exit_with_2() -> None:
    assert run("nothing")[0] == 2
    assert run("serve", "--port", "many")[0] == 2
    for value in ("{", "[1]"):
        code, out = run("serve", "--demo", "--engine-args", value)
        assert code == 2 and "Invalid value for '--engine-args'" in out and "JSON" in out
    assert run("key", "add", "--role", "king")[0] == 2


def test_refusals_exit_with_1_and_one_sentence(tmp_path: Path) -> None:
    code, out = run("serve", "--demo", "--host", "0.0.0.0")
    assert code == 1 and "loopback" in out and "Traceback" not in out
    code, out = run("tenant", "show", "nobody", "--data-dir", str(tmp_path))
    assert code == 1 and "nobody" in out and "Traceback" not in out


def test_tenants_and_keys_from_the_shell(tmp_path: Path) -> None:
    at = ("--data-dir", str(tmp_path))
    assert run("migrate", *at)[0] == 0
    assert run("tenant", "add", "initech", "--rpm", "60", *at)[0] == 0
    code, out = run("tenant", "add", "initech", *at)
    assert code == 1 and "initech" in out
    (row,) = json.loads(run("tenant", "list", "--json", *at)[1])
    assert row["name"] == "initech" and row["rpm"] == 60 and row["tpm"] is None
    assert run("tenant", "set", "initech", "--unlimited", "rpm", "--tpm", "9", *at)[0] == 0
    (row,) = json.loads(run("tenant", "show", "initech", "--json", *at)[1])
    assert row["rpm"] is None and row["tpm"] == 9

    code, out = run("key", "add", "initech", "--note", "for the app", *at)
    secret = out.splitlines()[0]
    assert code == 0 and secret.startswith("lg-")
    (key,) = json.loads(run("key", "list", "--json", *at)[1])
    assert key["tenant"] == "initech" and secret.startswith(key["prefix"])
    assert secret not in run("key", "list", *at)[1]
    assert secret.encode() not in (tmp_path / "loragate.db").read_bytes(), "only the hash is stored"
    assert run("key", "revoke", key["id"], *at)[0] == 0
    assert json.loads(run("key", "list", "--json", *at)[1])[0]["revoked_at"]
    assert run("key", "add", "nobody", *at)[0] == 1
    assert run("tenant", "remove", "initech", "--yes", *at)[0] == 0


def test_version_json() -> None:
    assert set(json.loads(run("version", "--json")[1])) == {"loragate", "vllm"}
