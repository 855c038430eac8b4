"""What one server is asked for, all do: an adapter that is added, pinned, promoted or removed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from server_cluster import HELLO, KEY, Cluster, until
from survival import whole_adapter


@pytest.mark.timeout(600)
def test_what_one_server_is_asked_for_all_do(cluster: Cluster, tmp_path: Path) -> None:
    """An adapter that was added on one answers on another, a pin holds there, and a removal waits for its answers."""
    first, second, _ = cluster.servers
    assert cluster.add(first, "shared", whole_adapter(tmp_path, 5, scale=0.1)).status_code == 201
    until(lambda: cluster.ask(second, "acme-shared").status_code == 200, 10)
    assert cluster.admin(second, "PUT", "/adapters/acme/shared/versions/1/pin").status_code == 200
    until(lambda: (cluster.version(first, "shared")["slot"] or {}).get("pinned", False), 10)
    long = {"max_tokens": 1500, "min_tokens": 1500, "ignore_eos": True, "stream": True}
    request = {"model": "acme-shared", "messages": HELLO} | long
    headers = {"authorization": f"Bearer {KEY}"}
    url = f"{second.url}/v1/chat/completions"
    with (
        ThreadPoolExecutor(1) as pool,
        httpx.stream("POST", url, json=request, headers=headers, timeout=120) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        removing = pool.submit(cluster.admin, first, "DELETE", "/adapters/acme/shared")
        until(lambda: cluster.version(first, "shared")["state"] == "draining", 5)
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert removing.result().status_code == 200
    until(lambda: cluster.version(first, "shared")["state"] == "retired", 20)
    for server in cluster.servers:
        until(lambda server=server: cluster.version(server, "shared")["slot"] is None, 5)  # type: ignore[misc]


@pytest.mark.timeout(600)
def test_a_key_that_one_server_revokes_is_refused_by_all(cluster: Cluster) -> None:
    first, second, third = cluster.servers
    issued = cluster.admin(first, "POST", "/keys", json={"tenant": "acme", "role": "inference"}).json()
    headers = {"authorization": f"Bearer {issued['secret']}"}

    def status(url: str) -> int:
        return httpx.get(f"{url}/v1/models", headers=headers, timeout=30).status_code

    for server in (second, third):
        until(lambda server=server: status(server.url) == 200, 5)  # type: ignore[misc]
    assert cluster.admin(first, "DELETE", f"/keys/{issued['id']}").status_code == 200
    for server in (second, third):
        until(lambda server=server: status(server.url) == 401, 2)  # type: ignore[misc]
