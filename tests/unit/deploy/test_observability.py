"""Dashboards and alerts: every expression parses, every metric exists, every alert has a runbook."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import promql
import pytest
import yaml

from server.observability.metrics import SERIES

ROOT = Path(__file__).parents[3]
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="Debian's prometheus package")

#: Of prometheus-client's and Prometheus's own metrics, those that we use.
OTHERS = {"process_resident_memory_bytes", "process_cpu_seconds_total", "up"}


def declared() -> set[str]:
    names = set()
    for series in SERIES.values():
        name = series.exposed_name
        histogram = series.kind == "histogram"
        names |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"} if histogram else {name}
    return names | OTHERS | {rule["record"] for rule in promql.rules() if "record" in rule}


@pytest.mark.parametrize("where", promql.expressions())
def test_every_metric_is_declared(where: str) -> None:
    named = promql.metrics_in(promql.expressions()[where])
    assert named, where
    ours = {name for name in named if not name.startswith("vllm:")}
    assert ours <= declared(), f"{where}: {ours - declared()}"


def test_labels_in_expressions_are_those_of_the_series() -> None:
    labels = {s.exposed_name: set(s.labels) for s in SERIES.values()}
    for where, expression in promql.expressions().items():
        for name, selector in re.findall(r"(loragate_\w+)\{([^}]*)\}", expression):
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
            assert used <= labels[base] | {"job", "le"}, f"{where}: {used - labels[base]}"


@pytest.mark.slow
@needs_promtool
def test_promtool_parses_every_expression(tmp_path: Path) -> None:
    probe = tmp_path / "all.yml"
    found = [
        {"record": f"probe:{number}", "expr": expression}
        for number, expression in enumerate(promql.expressions().values())
    ]
    probe.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": found}]}), encoding="utf-8")
    for file in (probe, promql.RULES):
        done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    config = ROOT / "deploy/prometheus/prometheus.yml"
    done = subprocess.run(
        ["promtool", "check", "config", "--syntax-only", str(config)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@needs_promtool
def test_alerts_fire_when_they_should_and_only_then() -> None:
    tests = ROOT / "deploy/prometheus/rules_test.yml"
    done = subprocess.run(["promtool", "test", "rules", str(tests)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_summary_a_severity_and_a_runbook_that_exists() -> None:
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.M)
    }
    alerts = [rule for rule in promql.rules() if "alert" in rule]
    assert len(alerts) >= 15
    for alert in alerts:
        assert alert["labels"]["severity"] in ("page", "ticket"), alert["alert"]
        file, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert file == "docs/operations.md" and anchor in headings, alert["alert"]
        assert alert["annotations"]["summary"]


@pytest.mark.parametrize("file", promql.DASHBOARDS, ids=lambda file: file.stem)
def test_dashboards_are_whole(file: Path) -> None:
    board = json.loads(file.read_text(encoding="utf-8"))
    assert board["uid"] == file.stem and board["title"] and board["description"]
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 5
    assert len({panel["title"] for panel in panels}) == len(panels)
    variables = {variable["name"] for variable in board["templating"]["list"]}
    assert "datasource" in variables
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        here = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & here, f"{panel['title']} lies over another panel"
        cells |= here
        assert panel["datasource"]["uid"] == "${datasource}" and panel["targets"]
        for target in panel["targets"]:
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
            assert used <= variables, panel["title"]


def test_the_four_dashboards() -> None:
    assert {file.stem for file in promql.DASHBOARDS} == {
        "loragate-tenants", "loragate-kv", "loragate-adapters", "loragate-engine"
    }  # fmt: skip


def test_names_are_found_in_expressions() -> None:
    assert promql.metrics_in('sum by (le, a_b) (rate(x_y{z="q_r"}[5m])) / on (t) vllm:k > 1e9') == {
        "x_y",
        "vllm:k",
    }
