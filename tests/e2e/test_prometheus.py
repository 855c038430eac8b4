"""A real Prometheus scrapes the session's server and evaluates our rules and every panel."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import promql
import pytest
import yaml
from server_process import ServerProcess

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's prometheus package")


@pytest.fixture(scope="module")
def prometheus(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One that has scraped the server and evaluated the rules at least three times."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / "rules.yml")],
        "scrape_configs": [
            {
                "job_name": "loragate",
                "static_configs": [{"targets": [server.url.removeprefix("http://")]}],
            }
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    groups = [{**group, "interval": "1s"} for group in promql.rule_groups()]
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": groups}), encoding="utf-8")
    address = f"127.0.0.1:{_free_port()}"
    process = subprocess.Popen(
        [
            "prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}", "--log.level=error",
        ]
    )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://{address}/api/v1", timeout=20) as client:
            _until(lambda: query(client, "count_over_time(up[1m])")[0]["value"][1] >= "3")
            yield client
    finally:
        process.terminate()
        process.wait(20)


def query(client: httpx.Client, expression: str) -> list[dict[str, Any]]:
    answer = client.get("/query", params={"query": expression}).json()
    assert answer["status"] == "success", answer
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def test_the_server_is_scraped_whole(prometheus: httpx.Client) -> None:
    (target,) = prometheus.get("/targets").json()["data"]["activeTargets"]
    assert target["health"] == "up", target["lastError"]
    assert query(prometheus, "loragate_ready")[0]["value"][1] == "1"


def test_every_rule_is_evaluated_and_none_pages(prometheus: httpx.Client) -> None:
    groups = prometheus.get("/rules").json()["data"]["groups"]
    rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert set(rules) == {rule.get("alert") or rule["record"] for rule in promql.rules()}
    assert {name: rule["lastError"] for name, rule in rules.items() if rule.get("lastError")} == {}
    assert all(rule["health"] == "ok" for rule in rules.values())
    firing = {name for name, rule in rules.items() if rule.get("state") == "firing"}
    assert not firing & {"LoragateDown", "LoragateNotReady", "LoragatePromiseBroken"}


def test_every_metric_that_is_asked_for_is_known(prometheus: httpx.Client, acme: openai.OpenAI) -> None:
    """vLLM's names are not ours to declare, so a server that really runs must show them."""
    asked = set().union(*(promql.metrics_in(expression) for expression in promql.expressions().values()))
    hello: Any = [{"role": "user", "content": "Hello!"}]
    for chunk in acme.chat.completions.create(model="acme-support", messages=hello, stream=True):
        assert chunk.id
    rating = {"request_id": chunk.id, "rating": "down"}
    acme.post("/feedback", body=rating, cast_to=object)
    with pytest.raises(openai.NotFoundError):
        acme.chat.completions.create(model="nobody", messages=hello)

    def unknown() -> set[str]:
        known = set(prometheus.get("/label/__name__/values").json()["data"])
        # a recorded ratio has no value before there is something to divide by
        return asked - known - {rule["record"] for rule in promql.rules() if "record" in rule}

    _until(lambda: not unknown(), otherwise=unknown)


def test_every_panel_can_be_drawn(prometheus: httpx.Client) -> None:
    for where, expression in promql.expressions().items():
        answer = prometheus.get("/query", params={"query": expression}).json()
        assert answer["status"] == "success", f"{where}: {answer}"


def _until(condition: Any, timeout_s: float = 20, otherwise: Any = lambda: "") -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if condition():
                return
        except (httpx.HTTPError, IndexError, ValueError, AssertionError):
            pass
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {otherwise()}"
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
