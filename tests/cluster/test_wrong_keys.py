"""Wrong keys that are sent to several servers are delayed as if they were sent to one."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from server_cluster import Cluster, until
from server_process import ServerProcess


def wrong_key_s(server: ServerProcess) -> float:
    """How long the answer to a wrong key takes."""
    began = time.monotonic()
    headers = {"authorization": "Bearer wrong"}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json={}, headers=headers, timeout=60)
    assert answer.status_code in (401, 429)
    return time.monotonic() - began


def told(cluster: Cluster) -> int:
    """How many servers have told the others about wrong keys."""
    rows = cluster.database.query(
        "postgres", "SELECT count(*) FROM wrong_keys, jsonb_object_keys(reported_by::jsonb)"
    )
    return int(rows[0][0])


@pytest.mark.timeout(600)
def test_wrong_keys_on_one_server_are_slowed_on_all(cluster: Cluster) -> None:
    first, second, third = cluster.servers
    with ThreadPoolExecutor(14) as pool:
        list(pool.map(wrong_key_s, [first] * 14))
    until(lambda: told(cluster) > 0, 10)
    assert wrong_key_s(second) < 1  # it knows nothing of the others yet, and asks when it has got some itself
    wrong_key_s(second), wrong_key_s(second)
    until(lambda: told(cluster) > 1, 10)
    time.sleep(1)  # what it wrote it has read too
    assert wrong_key_s(second) > 1
    failed = cluster.admin(third, "GET", "/errors").json()["data"]
    assert sum(each["code"] == "invalid_api_key" for each in failed) >= 3
    began = time.monotonic()
    assert cluster.ask(second).status_code == 200  # a right key never waits
    assert time.monotonic() - began < 2
