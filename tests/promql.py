"""What our dashboards, rules and the autoscaler ask Prometheus, and which metrics that names."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import yaml
from kubernetes_overlays import scaling_queries

DEPLOY = Path(__file__).parents[1] / "deploy"
RULES = DEPLOY / "prometheus/rules.yml"
DASHBOARDS = sorted((DEPLOY / "grafana").glob("*.json"))

_WORDS = {
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "and",
    "or",
    "unless",
    "bool",
    "offset",
}


@functools.cache
def rule_groups() -> list[dict[str, Any]]:
    return yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in rule_groups() for rule in group["rules"]]


def panels() -> list[tuple[str, dict[str, Any]]]:
    return [
        (file.stem, panel)
        for file in DASHBOARDS
        for panel in json.loads(file.read_text(encoding="utf-8"))["panels"]
    ]


@functools.cache
def expressions() -> dict[str, str]:
    """Where an expression stands -> the expression, with Grafana's variables filled in."""
    found = {f"rules: {rule.get('alert') or rule['record']}": rule["expr"] for rule in rules()}
    found |= {f"autoscaler: {name}": query for name, query in scaling_queries().items()}
    for board, panel in panels():
        for target in panel["targets"]:
            filled = target["expr"].replace("$__rate_interval", "1m")
            found[f"{board}: {panel['title']} {target['refId']}"] = re.sub(r"\$\w+", ".*", filled)
    return found


def metrics_in(expression: str) -> set[str]:
    """The metrics that an expression reads."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    names = re.findall(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(?!\s*\(|[\w:])", bare)
    return {name for name in names if name not in _WORDS}
