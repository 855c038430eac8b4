"""Compose and systemd files: valid by their schemas, hardened, and true to the server's settings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import compose_spec
import pytest
import yaml
from postgres_process import postgres_process
from sqlalchemy.engine import make_url

from adapters.errors import RegistryUnusable
from adapters.registry import migrate
from server.config.settings import Settings, load

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
COMPOSE = sorted(DEPLOY.glob("compose*.yaml"))
ALERTMANAGER = DEPLOY / "alertmanager/alertmanager.yml"
UNIT = DEPLOY / "systemd/loragate.service"


# Compose


@pytest.mark.parametrize("file", COMPOSE, ids=lambda file: file.name)
def test_compose_takes_the_file(file: Path) -> None:
    given = yaml.safe_load(file.read_text(encoding="utf-8"))
    parsed = compose_spec.ComposeSpecification.model_validate(given)
    known = parsed.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for name, service in given["services"].items():
        assert set(service) <= set(known["services"][name]), "a field that compose does not know"


def test_compose_is_hardened_and_private() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert set(services) == {"loragate", "postgres", "prometheus", "alertmanager", "grafana"}
    for name, service in services.items():
        if name != "loragate":
            image, _, tag = service["image"].rpartition(":")
            assert image and re.search(r"\d+\.\d+", tag), f"{name}: {service['image']}"
        assert service["restart"] == "unless-stopped", name
        check = service["healthcheck"]
        assert check["test"][0] == "CMD" and check["interval"] and check["timeout"] and check["retries"], name
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", [])), name
        for volume in service.get("volumes", []):
            source = str(volume).split(":")[0]
            assert not source.startswith(".") or (DEPLOY / source).exists(), source
    ours = services["loragate"]
    assert ours["read_only"] and ours["cap_drop"] == ["ALL"] and ours["tmpfs"]
    grace_s = int(ours["stop_grace_period"].removesuffix("s"))
    env = ours["environment"]
    assert grace_s >= float(env["LORAGATE_DRAIN_DELAY_S"]) + float(env["LORAGATE_SHUTDOWN_TIMEOUT"]) + 20
    (call,) = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", ours["healthcheck"]["test"][-1])
    assert call == ("8000", "/ready")


def interpolated(value: str, variables: dict[str, str]) -> str:
    """What compose makes of `${NAME}`, `${NAME:-default}` and `${NAME:?message}`; a missing name is an error."""
    return re.sub(
        r"\$\{(\w+)(?::([-?])([^}]*))?\}",
        lambda m: variables[m[1]] if m[1] in variables or m[2] != "-" else m[3],
        value,
    )


@pytest.mark.slow
@pytest.mark.parametrize("password", ["p@ss/w%rd", "a:b#c?d&e=f", "%40 $x '\\\"", "plain"])
async def test_any_password_of_the_database_works(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a real PostgreSQL that checks passwords; only the host of the URL is another."""
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    given = {"POSTGRES_PASSWORD": password, "LORAGATE_MODEL": "m"}
    ours = {k: interpolated(v, given) for k, v in services["loragate"]["environment"].items()}
    theirs = {k: interpolated(v, given) for k, v in services["postgres"]["environment"].items()}
    for name in list(os.environ):
        if name.startswith(("LORAGATE_", "PG")):
            monkeypatch.delenv(name)
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    url = make_url(load({}).database_url)
    assert (url.username, url.database) == (theirs["POSTGRES_USER"], theirs["POSTGRES_DB"])
    with postgres_process(theirs["POSTGRES_PASSWORD"]) as server:
        query = {"host": str(server.folder)}
        url = url.set(username="postgres", database="postgres", host=None, query=query)
        with pytest.raises(RegistryUnusable, match="refuses the user"):
            monkeypatch.setenv("PGPASSWORD", f"{password}x")
            await migrate(url.render_as_string(hide_password=False))
        monkeypatch.setenv("PGPASSWORD", ours["PGPASSWORD"])
        await migrate(url.render_as_string(hide_password=False))
        encoded = url.set(password=password).render_as_string(hide_password=False)
        monkeypatch.delenv("PGPASSWORD")
        await migrate(encoded)


def test_prometheus_tells_alertmanager_whose_receivers_an_operator_fills_in() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text(encoding="utf-8"))
    (target,) = config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    assert target == "alertmanager:9093" and "alertmanager" in services
    assert "./alertmanager:/etc/alertmanager:ro" in services["alertmanager"]["volumes"]
    told = yaml.safe_load(ALERTMANAGER.read_text(encoding="utf-8"))
    receivers = {receiver["name"] for receiver in told["receivers"]}
    routes = {route["matchers"][0]: route["receiver"] for route in told["route"]["routes"]}
    assert routes == {'severity = "page"': "page"} and told["route"]["receiver"] == "ticket"
    assert receivers == {"page", "ticket"}, "the two severities of the rules"


@pytest.mark.skipif(shutil.which("amtool") is None, reason="needs Debian's prometheus-alertmanager")
def test_alertmanager_takes_its_file() -> None:
    done = subprocess.run(["amtool", "check-config", str(ALERTMANAGER)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for severity in ("page", "ticket"):
        command = ["amtool", "config", "routes", "test", f"--config.file={ALERTMANAGER}"]
        done = subprocess.run([*command, f"severity={severity}"], capture_output=True, text=True)
        assert done.stdout.strip() == severity, done.stdout + done.stderr


def test_prometheus_and_grafana_find_what_they_are_given() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    scraped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text(encoding="utf-8"))
    (target,) = scraped["scrape_configs"][0]["static_configs"][0]["targets"]
    assert target.split(":")[0] in services
    folder = DEPLOY / "grafana/provisioning"
    source = yaml.safe_load((folder / "datasources/prometheus.yaml").read_text(encoding="utf-8"))
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    boards = yaml.safe_load((folder / "dashboards/loragate.yaml").read_text(encoding="utf-8"))
    mounted = [str(volume).split(":")[1] for volume in services["grafana"]["volumes"]]
    assert boards["providers"][0]["options"]["path"] in mounted


# All of them


def test_every_variable_is_a_setting() -> None:
    fields = {f"LORAGATE_{name.upper()}" for name in Settings.model_fields}
    for file in [*COMPOSE, UNIT, ROOT / "Dockerfile"]:
        text = file.read_text(encoding="utf-8")
        for name in re.findall(r"\bLORAGATE_[A-Z_]+\b", text):
            assert name in fields | {"LORAGATE_TARGET"}, f"{file.name}: {name}"


# systemd


needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def _with_a_real_command(tmp_path: Path) -> Path:
    """The unit with the command of this environment, which is there."""
    command = Path(sys.executable).with_name("loragate")
    unit = tmp_path / "loragate.service"
    text = UNIT.read_text(encoding="utf-8").replace("/opt/loragate/bin/loragate", str(command))
    unit.write_text(text, encoding="utf-8")
    return unit


@needs_systemd
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = _with_a_real_command(tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60
    )
    complaints = [line for line in done.stderr.splitlines() if "loragate.service" in line]
    assert done.returncode == 0 and complaints == [], done.stderr


@needs_systemd
def test_systemd_finds_the_unit_hardened(tmp_path: Path) -> None:
    unit = _with_a_real_command(tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=40", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout[-600:] + done.stderr


def test_systemd_gives_time_to_drain() -> None:
    text = UNIT.read_text(encoding="utf-8")
    timeout_s = float(re.findall(r"^TimeoutStopSec=(\d+)$", text, re.M)[0])
    fields = Settings.model_fields
    assert timeout_s >= fields["shutdown_timeout"].default + fields["drain_delay_s"].default + 15
    assert "KillSignal=SIGTERM" in text and "ExecStart=/opt/loragate/bin/loragate serve" in text
