"""A server that starts changes nothing of what the others do, and servers may start at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from server_cluster import HELLO, KEY, OPERATOR, Cluster, until
from survival import TAR, pack, whole_adapter


def test_servers_that_started_together_on_an_empty_database_serve_the_demo(cluster: Cluster) -> None:
    for server in cluster.servers:
        for model in ("loragate-demo", "acme-support"):
            assert cluster.ask(server, model).status_code == 200
    adapters = cluster.admin(cluster.servers[0], "GET", "/adapters").json()["data"]
    (support,) = (row for row in adapters if (row["tenant"], row["name"]) == ("acme", "support"))
    assert len(support["alias"]["targets"]) == 1


@pytest.mark.timeout(600)
def test_a_start_changes_nothing_of_an_upload_a_drain_and_a_canary(cluster: Cluster, tmp_path: Path) -> None:
    first, second, _ = cluster.servers
    folder = whole_adapter(tmp_path, 6, scale=0.1)
    for name, promote in (("leaving", True), ("canary", True), ("canary", False)):
        assert cluster.add(first, name, folder, promote=promote).status_code == 201
    split = {"1": 0.7, "2": 0.3}
    assert (
        cluster.admin(first, "POST", "/adapters/acme/canary/split", json={"weights": split}).status_code
        == 200
    )
    streams, started = threading.Event(), threading.Event()
    with ThreadPoolExecutor(3) as pool:
        uploading = pool.submit(upload, first.url, pack(folder), started)
        streaming = pool.submit(stream, second.url, streams)
        assert streams.wait(60)
        removing = pool.submit(cluster.admin, first, "DELETE", "/adapters/acme/leaving")
        until(lambda: cluster.version(first, "leaving")["state"] == "draining", 10)
        try:
            fourth = cluster.launch()
        finally:
            started.set()
        try:
            assert cluster.weights(fourth, "canary") == split
            assert uploading.result().status_code == 201, uploading.result().text
            assert streaming.result() == "data: [DONE]" and removing.result().status_code == 200
            until(lambda: cluster.version(first, "leaving")["state"] == "retired", 20)
            for model in ("acme-uploaded", "acme-canary", "acme-support"):
                assert cluster.ask(fourth, model).status_code == 200
        finally:
            fourth.stop()
    for name in ("uploaded", "canary"):
        assert cluster.admin(first, "DELETE", f"/adapters/acme/{name}").status_code == 200


def upload(url: str, body: bytes, started: threading.Event) -> httpx.Response:
    """Send an adapter of which the last piece comes when the other server has started."""

    def pieces() -> Iterator[bytes]:
        sent = len(body) - 1000
        yield body[:sent]
        while not started.wait(0.3) and sent < len(body) - 1:  # slowly, not too slowly
            yield body[sent : sent + 1]
            sent += 1
        yield body[sent:]

    headers = {"authorization": f"Bearer {OPERATOR}"} | TAR
    path = "/admin/v1/adapters/acme/uploaded/versions"
    return httpx.post(f"{url}{path}", content=pieces(), headers=headers, timeout=120)


def stream(url: str, streams: threading.Event) -> str:
    """The last line of long answers of the version that is removed."""
    request = {"model": "acme-leaving", "messages": HELLO, "n": 8, "stream": True, "max_tokens": 1900}
    request |= {"min_tokens": 1900, "ignore_eos": True}
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.stream(
        "POST", f"{url}/v1/chat/completions", json=request, headers=headers, timeout=300
    ) as answer:
        last = ""
        for line in answer.raise_for_status().iter_lines():
            streams.set()
            last = line or last
        return last
