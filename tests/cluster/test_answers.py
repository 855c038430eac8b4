"""What one server has answered, all know: a rating finds it, and a canary is judged by all of its answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_cluster import KEY, Cluster, until
from survival import whole_adapter

import demo

END_OF_TEXT = json.loads((demo.MODEL_DIR / "config.json").read_text())["eos_token_id"]


@pytest.mark.timeout(600)
def test_a_rating_may_be_sent_to_another_server(cluster: Cluster) -> None:
    first, second, _ = cluster.servers
    answer = cluster.ask(first, "acme-support").raise_for_status()
    rating = {"request_id": answer.headers["x-request-id"], "rating": "down"}
    headers = {"authorization": f"Bearer {KEY}"}

    def rate() -> httpx.Response:
        return httpx.post(f"{second.url}/v1/feedback", json=rating, headers=headers, timeout=60)

    until(lambda: rate().status_code == 201, 10)
    receipt: dict[str, Any] = rate().json()
    assert receipt["adapter"] == "support" and receipt["version"] >= 1


@pytest.mark.timeout(600)
def test_a_canary_is_judged_by_the_answers_of_all_servers(cluster: Cluster, tmp_path: Path) -> None:
    """No server alone sees as many answers of it as `--canary-min-answers` wants (20)."""
    folder = whole_adapter(tmp_path, 21, scale=0.1)
    first = cluster.servers[0]
    empty = {"logit_bias": {str(END_OF_TEXT): 100}}
    assert cluster.add(first, "bird", folder).status_code == 201
    assert cluster.add(first, "bird", folder, promote=False, sampling_defaults=empty).status_code == 201
    split = {"weights": {"1": 0.5, "2": 0.5}}
    assert cluster.admin(first, "POST", "/adapters/acme/bird/split", json=split).status_code == 200
    for server in cluster.servers:
        until(lambda server=server: cluster.ask(server, "acme-bird").status_code == 200, 10)  # type: ignore[misc]
    for number in range(54):
        answer = cluster.ask(cluster.servers[number % 3], "acme-bird", user=f"user {number}", max_tokens=4)
        assert answer.status_code == 200, answer.text
    until(lambda: cluster.weights(first, "bird") == {"1": 1.0}, 15)
    history = cluster.admin(first, "GET", "/adapters/acme/bird").json()["history"]
    assert history[0]["by"] == "canary watch"
    assert cluster.admin(first, "DELETE", "/adapters/acme/bird").status_code == 200
